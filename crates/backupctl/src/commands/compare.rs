//! Several repositories, compared with each other.

use backupd::config::{Address, Settings};
use backupd::{Failure, open};
use repository::Cluster;
use repository::copy::CopyPlan;
use serde::Serialize;

use crate::output::{lines, size, table};

/// One of several repositories, and what it lacks.
#[derive(Debug, Serialize)]
pub(super) struct RepositoryView {
    /// Where it is.
    address: String,
    /// Nothing is acknowledged before it has it; the others may lag.
    required: bool,
    /// Whether it could be compared.
    reachable: bool,
    /// Why not.
    problem: Option<String>,
    /// Objects that another required one has and this has not. What is being written at this moment counts.
    lacks_objects: Option<u64>,
    /// Bytes of those.
    lacks_bytes: Option<u64>,
    /// Objects that the first repository has with another size.
    differing: Vec<String>,
}

impl RepositoryView {
    fn new(address: &Address, required: bool, compared: Result<Vec<CopyPlan>, Failure>) -> RepositoryView {
        let mut view = RepositoryView {
            address: address.to_string(),
            required,
            reachable: compared.is_ok(),
            problem: None,
            lacks_objects: None,
            lacks_bytes: None,
            differing: Vec::new(),
        };
        match compared {
            Err(failure) => view.problem = Some(engine::chain(&failure)),
            Ok(plans) => {
                // What two others have both is lacked once.
                let (objects, bytes) = plans.iter().map(CopyPlan::totals).max().unwrap_or_default();
                (view.lacks_objects, view.lacks_bytes) = (Some(objects), Some(bytes));
                view.differing =
                    plans.iter().flat_map(|plan| &plan.differing).map(ToString::to_string).collect();
            }
        }
        view
    }

    /// What is wrong with it and needs somebody. That it lags, or is being filled, does not.
    pub fn finding(&self) -> Option<String> {
        if let Some(problem) = &self.problem {
            return Some(format!("the repository {} cannot be compared: {problem}", self.address));
        }
        let key = self.differing.first()?;
        Some(format!(
            "{} has {} objects of other sizes than another repository, such as {key}; verify both",
            self.address,
            self.differing.len()
        ))
    }
}

/// Compares all of them, the first with the required ones, each of the others with the first.
pub(super) async fn all(settings: &Settings, first: &Cluster) -> Result<Vec<RepositoryView>, Failure> {
    let further = &settings.further;
    let (mut views, mut of_first) = (Vec::new(), Vec::new());
    for (address, required) in
        further.also.iter().map(|also| (also, true)).chain(further.later.iter().map(|later| (later, false)))
    {
        let compared = compare(settings, first, address).await;
        let compared = compared.map(|(lacks, mut extra)| {
            if required {
                // The other one's view names them.
                extra.differing.clear();
                of_first.push(extra);
            }
            vec![lacks]
        });
        views.push(RepositoryView::new(address, required, compared));
    }
    views.insert(0, RepositoryView::new(&settings.repository, true, Ok(of_first)));
    Ok(views)
}

/// What the other lacks of the first, and what the first lacks of it.
async fn compare(
    settings: &Settings,
    first: &Cluster,
    address: &Address,
) -> Result<(CopyPlan, CopyPlan), Failure> {
    let other = open::existing_at(address, settings).await?.cluster(first.name())?;
    Ok((first.plan_copy(other.store()).await?, other.plan_copy(first.store()).await?))
}

pub(super) fn text(views: &[RepositoryView]) -> String {
    let mut rows = table(&["Repository", "", ">Lacks", ">Bytes"]);
    for view in views {
        let role = if view.required { "required" } else { "may lag" };
        let (objects, bytes) = match (view.lacks_objects, view.lacks_bytes) {
            (Some(objects), Some(bytes)) => (format!("{objects} objects"), size(bytes)),
            _ => ("not reachable".to_owned(), String::new()),
        };
        rows.add_row([view.address.clone(), role.to_owned(), objects, bytes]);
    }
    format!("\n{}", lines(&rows))
}
