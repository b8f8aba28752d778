//! pg_amcheck over everything that was restored.

use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::Error;

/// How much is kept of what pg_amcheck says.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// pg_amcheck's code for "found corruption"; 1 is for "could not check".
const FOUND_CORRUPTION: i32 = 2;

/// What pg_amcheck said.
pub(super) enum Checked {
    /// Nothing.
    Whole,
    /// It could not check.
    Impossible(String),
    /// What is corrupt.
    Corrupt(String),
}

/// Checks all tables and B-tree indexes of all databases, and that each index has all of its table. The last takes as long as all
/// else together, and is what would show files that do not fit together, as a backup gone wrong has them.
pub(super) async fn run(
    bindir: &Path,
    sockets: &Path,
    superuser: &str,
    workers: usize,
    shutdown: &CancellationToken,
) -> Result<Checked, Error> {
    let program = bindir.join("pg_amcheck");
    if !program.is_file() {
        return Ok(Checked::Impossible(format!("{} is not there", program.display())));
    }
    let mut command = Command::new(&program);
    command.args(["--all", "--install-missing", "--heapallindexed", "--no-password"]);
    command.args(["--maintenance-db", "template1", "--username", superuser, "--jobs"]);
    command.arg(workers.max(1).to_string()).arg("--host").arg(sockets).args(["--port", "5432"]);
    command.env("LC_ALL", "C").env_remove("PGOPTIONS").env_remove("PGSERVICE");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(Error::file("start", &program))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (out, err) = tokio::join!(head(out), head(err));
        (child.wait().await, out, err)
    };
    let (status, out, err) = tokio::select! {
        done = work => done,
        () = shutdown.cancelled() => return Err(Error::Stopped),
    };
    let status = status.map_err(Error::file("wait for", &program))?;
    Ok(match status.code() {
        Some(0) => Checked::Whole,
        Some(FOUND_CORRUPTION) => Checked::Corrupt(out.trim().to_owned()),
        _ => Checked::Impossible(format!("pg_amcheck ended with {status}: {}", err.trim())),
    })
}

/// The beginning of what is said. The rest is read, too, so that the program does not wait for us.
async fn head(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 8 << 10]);
    if let Some(mut pipe) = pipe {
        while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
            let room = OUTPUT_BYTES_MAX.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..read.min(room)]);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}
