//! The server's ErrorResponse, and which [`Error`] it is.
//!
//! SQLSTATE decides where it can. Where one code stands for several things we look at the name of the C function that
//! raised the error, which unlike the message is never translated. (Asking for English with `lc_messages` in the
//! start-up packet is no way out: only superusers may set it, and others are refused the connection.) Two facts have
//! nothing but their text, and are then recognised in English only.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

use crate::error::Error;

/// Longest text of the server's that is kept, in bytes; error messages are for people.
const TEXT_BYTES_MAX: usize = 4096;

/// The fields of an ErrorResponse or NoticeResponse that we use.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub severity: String,
    pub code: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub routine: String,
}

/// Who asked, for the errors that name it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asker {
    pub user: String,
    pub replication: bool,
}

impl Report {
    /// Reads the fields. Malformed ones are left out: a half-readable error is better than none.
    pub fn parse(mut fields: ErrorFields<'_>) -> Report {
        let mut report = Report::default();
        while let Ok(Some(field)) = fields.next() {
            let text = clip(&String::from_utf8_lossy(field.value_bytes()));
            match field.type_() {
                // 'S' is translated and older than 'V', which follows it.
                b'S' if report.severity.is_empty() => report.severity = text,
                b'V' => report.severity = text,
                b'C' => report.code = text,
                b'M' => report.message = text,
                b'D' => report.detail = Some(text),
                b'H' => report.hint = Some(text),
                b'R' => report.routine = text,
                _ => {}
            }
        }
        report
    }

    /// Whether the server closes the connection after this.
    pub fn is_fatal(&self) -> bool {
        self.severity == "FATAL" || self.severity == "PANIC"
    }

    /// The error a caller can act on.
    pub fn into_error(self, asker: &Asker) -> Error {
        let message = self.full_message();
        let routine = self.routine.as_str();
        match self.code.as_str() {
            "28000" if self.is_hba_rejection() => {
                Error::NotAuthorized { message, user: asker.user.clone(), replication: asker.replication }
            }
            "28P01" | "28000" => Error::Authentication { message },
            "42501" => Error::NotReplicationRole { message },
            "42704" if self.is_about_slots() => Error::SlotMissing { message },
            "42710" if self.is_about_slots() => Error::SlotExists { message },
            "55006" if self.is_about_slots() => Error::SlotInUse { message },
            "53400" if self.is_about_slots() => Error::NoFreeSlot { message },
            "53300" => Error::NoFreeWalSender { message },
            "55000" if self.is_invalidated_slot() => Error::SlotInvalidated { message },
            "57P03" => Error::StartingUp { message },
            "57P01" | "57P02" => Error::Shutdown { message },
            "58P01" if self.is_removed_wal() => Error::WalRemoved { message },
            "XX000" if matches!(routine, "tliSwitchPoint" | "tliOfPointInHistory") => {
                Error::NotInHistory { message }
            }
            // Both are raised in one function, but only the fork has a detail: where it forked.
            "XX000" if routine == "StartReplication" && self.detail.is_some() => {
                Error::NotInHistory { message }
            }
            "XX000" if routine == "StartReplication" => Error::AheadOfServer { message },
            _ => self.into_server_error(),
        }
    }

    fn is_hba_rejection(&self) -> bool {
        self.routine == "ClientAuthentication" || self.message.contains("pg_hba.conf")
    }

    /// 42704 and its kin also speak of roles and tables; slots are handled in functions named after them.
    fn is_about_slots(&self) -> bool {
        self.routine.contains("ReplicationSlot") || self.message.contains("replication slot")
    }

    fn is_invalidated_slot(&self) -> bool {
        let lost = self.message.contains("can no longer") || self.message.contains("cannot read from");
        self.is_about_slots() && (lost || self.routine == "RaiseSlotInvalidationError")
    }

    /// 58P01 is also a missing history file; that one is opened elsewhere.
    fn is_removed_wal(&self) -> bool {
        matches!(self.routine.as_str(), "WalSndSegmentOpen" | "CheckXLogRemoved" | "WALReadRaiseError")
            || self.message.contains("has already been removed")
    }

    fn full_message(&self) -> String {
        match &self.detail {
            Some(detail) => format!("{}: {detail}", self.message),
            None => self.message.clone(),
        }
    }

    fn into_server_error(self) -> Error {
        let Report { severity, code, message, detail, hint, .. } = self;
        Error::Server { severity, code, message, detail, hint }
    }
}

fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, routine: &str, message: &str, detail: Option<&str>) -> Error {
        let report = Report {
            severity: "ERROR".to_owned(),
            code: code.to_owned(),
            message: message.to_owned(),
            detail: detail.map(str::to_owned),
            hint: None,
            routine: routine.to_owned(),
        };
        report.into_error(&Asker { user: "rep".to_owned(), replication: true })
    }

    #[test]
    fn one_code_of_several_meanings() {
        assert!(matches!(error("28000", "auth_failed", "role ...", None), Error::Authentication { .. }));
        assert!(matches!(
            error("28000", "ClientAuthentication", "kein Eintrag", None),
            Error::NotAuthorized { .. }
        ));
        assert!(matches!(error("42704", "ReplicationSlotAcquire", "fehlt", None), Error::SlotMissing { .. }));
        assert!(matches!(error("42704", "get_role_oid", "role", None), Error::Server { .. }));
        assert!(matches!(error("58P01", "WalSndSegmentOpen", "entfernt", None), Error::WalRemoved { .. }));
        assert!(matches!(
            error("58P01", "SendTimeLineHistory", "could not open", None),
            Error::Server { .. }
        ));
        assert!(matches!(error("XX000", "StartReplication", "a", Some("b")), Error::NotInHistory { .. }));
        assert!(matches!(error("XX000", "StartReplication", "a", None), Error::AheadOfServer { .. }));
        assert!(matches!(error("XX000", "tliSwitchPoint", "a", None), Error::NotInHistory { .. }));
    }

    #[test]
    fn an_invalidated_slot_is_told_from_a_wrong_one() {
        let lost = "can no longer access replication slot \"a\"";
        assert!(matches!(
            error("55000", "ReplicationSlotAcquire", lost, None),
            Error::SlotInvalidated { .. }
        ));
        let logical = "cannot use a logical replication slot for physical replication";
        assert!(matches!(error("55000", "StartReplication", logical, None), Error::Server { .. }));
    }
}
