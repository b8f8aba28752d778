//! `backupctl check`

use backupd::{Exit, Failure};

use crate::Context;

pub(crate) async fn run(_context: &Context) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
