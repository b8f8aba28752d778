//! `backupd run`: archives WAL, and keeps in order what comes with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::archive::{self, ArchiveConfig, ArchiveStatus, Target};
use engine::expire;
use engine::follow::{self, FollowStatus};
use engine::lease::{self, Held};
use repository::{Cluster, Repository};
use store::Store;
use store::mirror::Lagging;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::{EventSettings, Settings};
use crate::events::{self, Events};
use crate::monitor::{Monitor, Observed, Phase, keep_figures};
use crate::serve::{Limits, Serving};
use crate::{Copies, Failure, guard, open, process, schedule, systemd};

/// Time between two looks for what dead backups left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// How long a repository that may lag is given to remove what has expired there.
const LAGGING_EXPIRES_WITHIN: Duration = Duration::from_secs(1800);
/// Time to the next try to open a repository that cannot be reached; it doubles up to [`OPEN_RETRY_MAX`].
const OPEN_RETRY_MIN: Duration = Duration::from_millis(500);
const OPEN_RETRY_MAX: Duration = Duration::from_secs(30);

/// Runs until `shutdown`, or until archiving fails before it ever worked.
pub async fn run(settings: &Settings, shutdown: CancellationToken) -> Result<(), Failure> {
    check(settings)?;
    let names: Vec<&str> = settings.server()?.nodes.iter().map(|node| node.name.as_str()).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), repository = %settings.repository, cluster = settings.cluster,
        server = names.join(", "), "backupd starts"
    );
    let serving = settings.serve()?.map(|serve| Serving::bind(serve, Limits::default())).transpose()?;
    let monitor = settings.monitor.map(Monitor::bind).transpose()?;
    let observed = Arc::new(Observed::new(settings.cluster.clone()));
    let (events, happened) = Events::new(settings.cluster.clone());
    let told = Told { observed: observed.clone(), events: events.clone() };
    let mut beside = JoinSet::new();
    let rest = shutdown.child_token();
    beside.spawn(systemd::tell(observed.clone(), rest.clone()));
    let EventSettings { outlets, lag_limit } = settings.events.clone();
    if !outlets.is_empty() {
        beside.spawn(events::deliver(outlets, happened, rest.clone()));
        beside.spawn(events::watch(observed.clone(), events, lag_limit, rest.clone()));
    }
    if let Some(monitor) = monitor {
        beside.spawn(monitor.run(observed.clone(), rest.clone()));
    }
    let Some((cluster, copies)) = open_repository(settings, &shutdown).await? else { return Ok(()) };
    if let Some(serving) = serving {
        let (settings, shutdown) = (settings.clone(), rest.clone());
        let open = async move || open_store(&settings, &shutdown).await;
        beside.spawn(serving.start(open, rest.clone())?);
    }
    let ended = take_turns(settings, &cluster, copies, &told, &shutdown).await;
    rest.cancel();
    while let Some(ended) = beside.join_next().await {
        ended.map_err(panicked)?;
    }
    ended?;
    tracing::info!("backupd stops");
    Ok(())
}

/// What the service would do with these settings, a fact a line, or what is wrong with them.
pub fn describe(settings: &Settings) -> Result<String, Failure> {
    check(settings)?;
    let file = settings.file.as_ref().map_or_else(|| "none".to_owned(), |file| file.display().to_string());
    let names: Vec<&str> = settings.server()?.nodes.iter().map(|node| node.name.as_str()).collect();
    let schedule = match &settings.schedule.backups {
        Some(calendar) => {
            let next =
                calendar.next(crate::now()).map_or_else(|| "never".to_owned(), |next| next.to_rfc3339());
            format!("{} in {}, next at {next}", calendar.as_str(), settings.schedule.zone)
        }
        None => "taken by people, or by another schedule".to_owned(),
    };
    let expires = if settings.retention.keeps_everything() {
        "nothing"
    } else {
        "what the retention settings do not ask for"
    };
    let facts = [
        ("file", file),
        ("repository", settings.repository.to_string()),
        ("cluster", settings.cluster.clone()),
        ("server", names.join(", ")),
        ("slot", settings.slot_in_use().unwrap_or_else(|| "none".to_owned())),
        ("backups", schedule),
        ("expires", expires.to_owned()),
        ("serves", settings.serve()?.map_or_else(|| "nothing".to_owned(), |serve| serve.listen.to_string())),
        ("tells health", settings.monitor.map_or_else(|| "nobody".to_owned(), |listen| listen.to_string())),
    ];
    Ok(facts.iter().map(|(name, value)| format!("{name:<13} {value}\n")).collect())
}

/// Looks at settings that only the service needs, and that would otherwise be found wrong when they are used.
fn check(settings: &Settings) -> Result<(), Failure> {
    settings.server()?;
    settings.follow(crate::now)?;
    settings.serve()?;
    crate::backup_config(settings)?;
    Ok(())
}

/// Where the parts of the service say what they are at, and what has happened.
struct Told {
    observed: Arc<Observed>,
    events: Events,
}

/// Waits for the lease, archives for as long as it is ours, and waits for it again.
async fn take_turns(
    settings: &Settings,
    cluster: &Cluster,
    copies: Option<Copies>,
    told: &Told,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let claimant = process::claimant();
    while !shutdown.is_cancelled() {
        told.observed.enter(Phase::StandingBy);
        let acquired = until_open(settings, shutdown, async || {
            Ok::<_, Failure>(lease::acquire(cluster, &claimant, shutdown).await?)
        });
        let Some(Some(held)) = acquired.await? else { return Ok(()) };
        let over = shutdown.child_token();
        let (fenced, taken_over) = (cluster.fenced(held.fence()), held.taken_over);
        let copies = copies.clone().map(|copies| Copies { kept: copies.kept.fenced(held.fence()), ..copies });
        let keeping = tokio::spawn(held.keep(over.clone()));
        let led = lead(settings, fenced, copies, taken_over, told, over.clone()).await;
        over.cancel();
        keeping.await.map_err(panicked)?;
        Held::give_back(cluster, &claimant).await;
        led?;
    }
    Ok(())
}

/// Archives, and does what goes with it, until `shutdown`.
async fn lead(
    settings: &Settings,
    cluster: Cluster,
    copies: Option<Copies>,
    taken_over: bool,
    told: &Told,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let Told { observed, events } = told;
    if let Some(copies) = &copies
        && !copies.settle(&shutdown).await
    {
        return Ok(());
    }
    let archive = ArchiveConfig {
        slot: settings.slot_in_use(),
        flush_interval: settings.flush_interval,
        in_flight_max: settings.in_flight,
        evicts: taken_over,
        clock: crate::now,
    };
    // Whatever ends archiving ends the rest; the rest ends nothing.
    let (status, watched) = watch::channel(ArchiveStatus::default());
    let rest = shutdown.child_token();
    let mut beside = JoinSet::new();
    let gate = Arc::new(Mutex::new(()));
    let (gate_too, events_too) = (gate.clone(), events.clone());
    let guard =
        guard::run(settings.clone(), cluster.clone(), watched.clone(), gate_too, events_too, rest.clone());
    beside.spawn(guard);
    let (watched_too, events) = (watched.clone(), events.clone());
    beside.spawn(schedule::run(settings.clone(), cluster.clone(), watched_too, gate, events, rest.clone()));
    let kept = copies.as_ref().map_or_else(|| cluster.clone(), |copies| copies.kept.clone());
    let may_lag = copies.as_ref().map_or_else(Vec::new, |copies| copies.lagging.clone());
    beside.spawn(keep_tidy(settings.clone(), kept, may_lag, rest.clone()));
    if let Some(copies) = copies {
        for lagging in &copies.lagging {
            beside.spawn(Copies::keep_up(copies.first.clone(), lagging.clone(), rest.clone()));
        }
        beside.spawn(copies.keep_backups(rest.clone()));
    }
    let (targets, target) = watch::channel(None);
    let (follows, followed) = watch::channel(FollowStatus::default());
    observed.enter(Phase::Leading { archive: watched.clone(), follow: followed });
    if settings.monitor.is_some() {
        let directory = settings.repository.directory().map(Path::to_owned);
        beside.spawn(keep_figures(cluster.clone(), directory, observed.clone(), rest.clone()));
    }
    let following = follow(settings, &cluster, watched, targets, follows, rest.clone())?;
    let over = shutdown.child_token();
    let archiving = tokio::spawn(archive::run(archive, cluster, target, status, over.clone()));
    let archived = async {
        let archived = archiving.await;
        rest.cancel();
        archived
    };
    // Following ends by itself only if it never began.
    let followed = async {
        let followed = following.await;
        over.cancel();
        followed
    };
    let (archived, followed) = tokio::join!(archived, followed);
    while let Some(ended) = beside.join_next().await {
        ended.map_err(panicked)?;
    }
    followed.map_err(panicked)??;
    archived.map_err(panicked)??;
    Ok(())
}

/// Chooses whom to archive from, for as long as it takes: the one server there is, or the primary of several nodes.
fn follow(
    settings: &Settings,
    cluster: &Cluster,
    archive: watch::Receiver<ArchiveStatus>,
    targets: watch::Sender<Option<Target>>,
    status: watch::Sender<FollowStatus>,
    shutdown: CancellationToken,
) -> Result<JoinHandle<Result<(), engine::Error>>, Failure> {
    let Some(config) = settings.follow(crate::now)? else {
        targets.send_replace(Some(Target::only(settings.server()?.for_archive())));
        return Ok(tokio::spawn(async move {
            shutdown.cancelled().await;
            drop(targets);
            Ok(())
        }));
    };
    Ok(tokio::spawn(follow::run(config, cluster.clone(), archive, targets, status, shutdown)))
}

fn panicked(cause: tokio::task::JoinError) -> Failure {
    Failure::System { action: "go on after a mistake in this program", source: std::io::Error::other(cause) }
}

/// Opens the repository, waiting for one that may come back; `None` when told to stop meanwhile.
async fn open_repository(
    settings: &Settings,
    shutdown: &CancellationToken,
) -> Result<Option<(Cluster, Option<Copies>)>, Failure> {
    until_open(settings, shutdown, async || open::with_copies(settings, crate::now()).await).await
}

/// The store once more, for the thread that serves it.
async fn open_store(settings: &Settings, shutdown: &CancellationToken) -> Option<Arc<dyn Store>> {
    match until_open(settings, shutdown, async || open::open_store(settings).await).await {
        Ok(store) => store,
        Err(failure) => {
            tracing::error!("the repository cannot be served: {}", engine::chain(&failure));
            None
        }
    }
}

/// Opens, again and again while what is wrong may pass; `None` when told to stop meanwhile.
async fn until_open<T>(
    settings: &Settings,
    shutdown: &CancellationToken,
    open: impl AsyncFn() -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let mut delay = OPEN_RETRY_MIN;
    loop {
        let opened = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            opened = open() => opened,
        };
        let failure = match opened {
            Ok(opened) => return Ok(Some(opened)),
            Err(failure) => failure,
        };
        if !matches!(&failure, Failure::Engine(error) if error.is_transient()) {
            return Err(failure);
        }
        let hint = failure.hint(Some(settings)).unwrap_or_default();
        tracing::warn!(hint, "the repository cannot be opened, trying again: {}", engine::chain(&failure));
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(OPEN_RETRY_MAX),
        }
    }
}

/// Removes what the policy does not ask for, and what dead backups left, now and then.
///
/// Repositories that may lag follow by what they have themselves: they may lack, or still have, what others do not.
async fn keep_tidy(
    settings: Settings,
    cluster: Cluster,
    may_lag: Vec<Arc<Lagging>>,
    shutdown: CancellationToken,
) {
    loop {
        let tidied = async {
            if let Err(error) = expire(&settings, &cluster).await {
                return tracing::warn!("what has expired cannot be removed yet: {}", engine::chain(&error));
            }
            for lagging in &may_lag {
                let address = lagging.store().address();
                match timeout(LAGGING_EXPIRES_WITHIN, expire_in(&settings, lagging.store())).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::info!(address, "nothing expires there for now: {}", engine::chain(&error));
                    }
                    Err(_elapsed) => {
                        tracing::info!(address, "nothing expires there for now: it does not answer")
                    }
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tidied => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => {}
        }
    }
}

async fn expire_in(settings: &Settings, store: &Arc<dyn Store>) -> Result<(), Failure> {
    let cluster = Repository::open(store.clone()).await?.cluster(&settings.cluster)?;
    Ok(expire(settings, &cluster).await?)
}

async fn expire(settings: &Settings, cluster: &Cluster) -> Result<(), engine::Error> {
    // Before the first connection ever there is no cluster, and nothing to expire.
    if cluster.identity().await?.is_none() {
        return Ok(());
    }
    let facts = expire::facts(cluster).await?;
    let plan = expire::plan(&facts, &settings.retention, crate::now(), settings.dead_after);
    if let Some(reason) = plan.nothing_because.as_ref().filter(|_| !settings.retention.keeps_everything()) {
        tracing::info!("nothing expires: {reason}");
    }
    let removed = expire::apply(cluster, &plan, crate::now(), settings.dead_after).await?;
    if removed.backups + removed.wal_objects > 0 {
        tracing::info!(
            backups = removed.backups,
            backup_bytes = removed.backup_bytes,
            wal_objects = removed.wal_objects,
            wal_bytes = removed.wal_bytes,
            "removed what the retention settings do not ask for"
        );
    }
    Ok(())
}
