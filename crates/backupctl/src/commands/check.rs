//! `backupctl check`

use backupd::config::Settings;
use backupd::{Exit, Failure, open};
use engine::check::{self, Check, Further, Request, Verdict};
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
    let opened = of_engine(open::existing_for_writing(settings).await)?;
    let further = further(settings).await?;
    let checks = check::check(&Request {
        connect: &server.replication,
        sql: &server.sql,
        slot: &settings.slot,
        cluster: opened.as_ref(),
        further: &further,
        space: settings.repository.directory().and_then(backupd::space),
        maximum_age: settings.schedule.maximum_age,
        now: backupd::now(),
    })
    .await;
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let report = Report { failed: count(Verdict::Failed), warnings: count(Verdict::Warning), checks };
    context.output.print(&report, || text(&report))?;
    Ok(if report.failed > 0 { Exit::Findings } else { Exit::Done })
}

/// What is wrong with a repository is a result; what is wrong with the configuration is not.
fn of_engine<T>(result: Result<T, Failure>) -> Result<Result<T, engine::Error>, Failure> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Failure::Engine(error)) => Ok(Err(error)),
        Err(other) => Err(other),
    }
}

/// Looks at the other repositories, where there are several.
async fn further(settings: &Settings) -> Result<Vec<Further>, Failure> {
    let further = &settings.further;
    let also = further.also.iter().map(|address| (address, true));
    let mut looked_at = Vec::new();
    for (address, required) in also.chain(further.later.iter().map(|address| (address, false))) {
        let used = async {
            let cluster = open::existing_at(address, settings).await?.cluster(&settings.cluster)?;
            cluster.probe().await.map_err(Failure::from)
        };
        let used = of_engine(used.await)?;
        looked_at.push(Further { address: address.to_string(), required, used });
    }
    Ok(looked_at)
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
