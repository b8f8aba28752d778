//! `backupctl check`

use backupd::{Exit, Failure, open};
use engine::check::{self, Check, Request, Verdict};
use serde::Serialize;

use crate::Context;
use crate::output::{lines, table};

/// What was looked at.
#[derive(Debug, Serialize)]
struct Report {
    /// In the order in which one would mend what they find.
    checks: Vec<Check>,
    /// How many failed.
    failed: usize,
    /// How many somebody should know about.
    warnings: usize,
}

pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let settings = &context.settings;
    let server = settings.server()?;
    let opened = match open::existing(settings).await {
        Ok(cluster) => Ok(cluster),
        Err(Failure::Engine(error)) => Err(error),
        Err(other) => return Err(other),
    };
    let checks = check::check(&Request {
        connect: &server.replication,
        sql: &server.sql,
        slot: &settings.slot,
        cluster: opened.as_ref(),
        space: super::space(settings.repository.directory()),
        now: backupd::now(),
    })
    .await;
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let report = Report { failed: count(Verdict::Failed), warnings: count(Verdict::Warning), checks };
    context.output.print(&report, || text(&report))?;
    Ok(if report.failed > 0 { Exit::Findings } else { Exit::Done })
}

fn text(report: &Report) -> String {
    let mut rows = table(&["Check", "", "Found"]);
    for check in &report.checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "WARNING",
            Verdict::Failed => "FAILED",
        };
        rows.add_row([check.name, verdict, &check.found]);
        if let Some(advice) = &check.advice {
            rows.add_row(["", "", &format!("→ {advice}")]);
        }
    }
    let Report { checks, failed, warnings } = report;
    format!("{}\n{} checks, {failed} failed, {warnings} warnings\n", lines(&rows), checks.len())
}
