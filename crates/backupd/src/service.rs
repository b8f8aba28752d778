//! `backupd run`: archives WAL, and keeps in order what comes with it.

use std::sync::Arc;
use std::time::Duration;

use engine::archive::{self, ArchiveConfig, ArchiveStatus, Target};
use engine::follow::{self, FollowStatus};
use engine::lease::{self, Held};
use repository::Cluster;
use store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, Lead};
use crate::config::{self, Changes, Live, Reloaded, Settings};
use crate::events::{self, Events};
use crate::monitor::{Monitor, Observed, Phase, keep_figures};
use crate::serve::{Limits, Serving};
use crate::{Copies, Failure, guard, open, process, schedule, systemd, tidy};

/// Time to the next try to open a repository that cannot be reached; it doubles up to [`OPEN_RETRY_MAX`].
const OPEN_RETRY_MIN: Duration = Duration::from_millis(500);
const OPEN_RETRY_MAX: Duration = Duration::from_secs(30);

/// Runs until `shutdown`, or until archiving fails before it ever worked.
///
/// `read_again` is asked for the settings when the process gets SIGHUP; what may change of them does.
pub async fn run(
    settings: &Settings,
    read_again: impl Fn() -> Result<Settings, config::Error> + Send + 'static,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    check(settings)?;
    let (changes, live) = Live::new(settings.clone());
    let names: Vec<&str> = settings.server()?.nodes.iter().map(|node| node.name.as_str()).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), repository = %settings.repository, cluster = settings.cluster,
        server = names.join(", "), "backupd starts"
    );
    let serving = settings.serve()?.map(|serve| Serving::bind(serve, Limits::default())).transpose()?;
    let monitor = settings.monitor.map(Monitor::bind).transpose()?;
    let observed = Arc::new(Observed::new(settings.cluster.clone()));
    let (events, happened) = Events::new(settings.cluster.clone());
    let api = Arc::new(Api::new(live.clone(), observed.clone()));
    let told =
        Told { live: live.clone(), observed: observed.clone(), events: events.clone(), api: api.clone() };
    let mut beside = JoinSet::new();
    let rest = shutdown.child_token();
    beside.spawn(systemd::tell(observed.clone(), rest.clone()));
    beside.spawn(read_on_hangup(changes, read_again, rest.clone())?);
    beside.spawn(events::deliver(live.clone(), happened, rest.clone()));
    beside.spawn(events::watch(observed.clone(), events, live.clone(), rest.clone()));
    if let Some(monitor) = monitor {
        beside.spawn(monitor.run(observed.clone(), api.clone(), rest.clone()));
    }
    let Some((cluster, copies)) = open_repository(settings, &shutdown).await? else { return Ok(()) };
    api.opened(cluster.clone());
    if settings.monitor.is_some() {
        beside.spawn(keep_figures(live, cluster.clone(), observed.clone(), rest.clone()));
    }
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

/// Reads the settings again whenever SIGHUP comes, until `shutdown`. Settings that are wrong change nothing.
fn read_on_hangup(
    changes: Changes,
    read: impl Fn() -> Result<Settings, config::Error> + Send + 'static,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = ()> + Send, Failure> {
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::system("listen for signals"))?;
    Ok(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = hangup.recv() => {}
            }
            let read = read().map_err(Failure::from).and_then(|settings| check(&settings).map(|()| settings));
            match read {
                Ok(settings) => say(&changes.take(&settings)),
                Err(failure) => {
                    tracing::error!(
                        "the settings stay as they are, as the new ones are wrong: {}",
                        engine::chain(&failure)
                    );
                }
            }
        }
    })
}

fn say(Reloaded { changed, waiting }: &Reloaded) {
    match changed.is_empty() {
        true => tracing::info!("the settings are read again; nothing changes now"),
        false => tracing::info!("the settings are read again; changed: {}", changed.join(", ")),
    }
    if !waiting.is_empty() {
        tracing::warn!("these count only when backupd is started again: {}", waiting.join(", "));
    }
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
    live: Live,
    observed: Arc<Observed>,
    events: Events,
    api: Arc<Api>,
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
    let Told { live, observed, events, api } = told;
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
    let kept = copies.as_ref().map_or_else(|| cluster.clone(), |copies| copies.kept.clone());
    let may_lag = copies.as_ref().map_or_else(Vec::new, |copies| copies.lagging.clone());
    let lead = Lead {
        cluster: cluster.clone(),
        kept: kept.clone(),
        may_lag: may_lag.clone(),
        gate: Arc::new(Mutex::new(())),
        events: events.clone(),
        tasks: TaskTracker::new(),
        over: rest.clone(),
    };
    beside.spawn(guard::run(live.clone(), lead.clone(), watched.clone()));
    beside.spawn(schedule::take_backups(live.clone(), lead.clone(), watched.clone(), observed.clone()));
    beside.spawn(schedule::verify_by_the_clock(live.clone(), lead.clone(), observed.clone()));
    beside.spawn(tidy::run(live.clone(), kept, may_lag, rest.clone()));
    if let Some(copies) = copies {
        for lagging in &copies.lagging {
            beside.spawn(Copies::keep_up(copies.first.clone(), lagging.clone(), rest.clone()));
        }
        beside.spawn(copies.keep_backups(rest.clone()));
    }
    let (targets, target) = watch::channel(None);
    let (follows, followed) = watch::channel(FollowStatus::default());
    observed.enter(Phase::Leading { archive: watched.clone(), follow: followed });
    api.lead(Some(lead.clone()));
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
    api.lead(None);
    lead.tasks.close();
    lead.tasks.wait().await;
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
