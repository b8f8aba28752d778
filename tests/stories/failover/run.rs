//! One run of failovers: a cluster under load, the engine, and what is remembered to compare restores with.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::ledger::{self, Clients, Moment};
use e2e::{Cluster, Link, Load, Loss, Promotion, Return, Service, Shape, World, wait_until};
use serde_json::Value;

use super::{list, lsn, status};

const LONGEST_LIFE: Duration = Duration::from_millis(1500);
const LONGEST_CUT: Duration = Duration::from_secs(3);
const BACKUP_BEGINS_WITHIN: Duration = Duration::from_secs(60);
const BACKUP_ENDS_WITHIN: Duration = Duration::from_secs(180);
const TWICE_WITHIN: Duration = Duration::from_secs(5);
/// More than a server keeps that is told to keep 4 MB.
const FLOOD_SEGMENTS: usize = 12;

/// What happens in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `kill -9` of the primary.
    Kill,
    /// `pg_ctl stop -m immediate` of the primary.
    Immediate,
    /// A clean switchover.
    Switchover,
    /// A standby is promoted that lacks the last WAL.
    Lagging,
    /// The second primary is lost right after the first.
    Twice,
    /// Nobody archives while it happens.
    EngineDown,
    /// In the middle of a base backup.
    DuringBackup,
    /// The engine alone cannot reach the primary, before it is lost.
    Partition,
    /// Nobody archives, and the servers remove WAL that nobody has seen. Not one of [`Kind::ALL`].
    EngineDownAndWalGone,
}

impl Kind {
    /// Those after which nothing may be missing.
    pub(super) const ALL: [Kind; 8] = [
        Kind::Kill,
        Kind::Lagging,
        Kind::EngineDown,
        Kind::Switchover,
        Kind::Twice,
        Kind::Partition,
        Kind::DuringBackup,
        Kind::Immediate,
    ];
}

/// What the repository has at the end.
#[derive(Debug)]
pub(super) struct Wal {
    pub holes: usize,
    /// For whoever reads the message of an assertion.
    #[expect(dead_code, reason = "printed")]
    status: Value,
}

/// Stretches of time that status says can be restored.
#[derive(Debug)]
pub(super) struct Claimed(Vec<(u64, String, String)>);

impl Claimed {
    pub(super) fn contain(&self, moment: &Moment) -> bool {
        let timeline = u64::from(moment.timeline.get());
        // RFC 3339 in UTC sorts as text; the fraction may be shorter, so only whole seconds are compared.
        let seconds = |time: &str| time.chars().take(19).collect::<String>();
        let at = seconds(&moment.time);
        self.0.iter().any(|(newest, from, to)| timeline <= *newest && seconds(from) < at && at < seconds(to))
    }
}

pub(super) struct Run<'world> {
    /// How nodes may come back.
    pub(super) returns: &'static [Return],
    clients: Clients,
    service: Option<Service>,
    moments: Vec<Moment>,
    waits: Vec<Duration>,
    watch: Option<JoinHandle<Option<Duration>>>,
    cluster: Cluster,
    world: &'world World,
}

impl<'world> Run<'world> {
    /// A cluster under load with a first backup.
    #[track_caller]
    pub(super) fn begin(world: &'world World, shape: &Shape) -> Run<'world> {
        let cluster = world.cluster(shape);
        Load::create_table(cluster.primary());
        let service = world.start_backupd_for(&cluster).expect_anything();
        let (clients, moments, waits) = (Clients::new(2), Vec::new(), Vec::new());
        let returns = &[Return::Rewind, Return::Clone];
        let run =
            Run { returns, clients, service: Some(service), moments, waits, watch: None, cluster, world };
        run.back_up();
        run
    }

    /// Takes a backup; one may be under way already.
    #[track_caller]
    pub(super) fn back_up(&self) {
        let before = self.world.backups().len();
        wait_until("a backup", BACKUP_ENDS_WITHIN, || {
            self.world.backupctl(&["backup"]).code == 0 || self.world.backups().len() > before
        });
    }

    /// One round: life on a timeline, a moment to restore to, the failover, and life on the next one.
    #[track_caller]
    pub(super) fn round(&mut self, kind: Kind) {
        let began = Instant::now();
        self.live();
        let to = self.candidate();
        let promotion = match kind {
            Kind::Kill => self.lose(Loss::Kill9, to),
            Kind::Immediate => self.lose(Loss::Immediate, to),
            Kind::Switchover => self.switch_over(to),
            Kind::Lagging => self.lag(to),
            Kind::Twice => self.twice(),
            Kind::EngineDown => self.without_engine(to, false),
            Kind::EngineDownAndWalGone => self.without_engine(to, true),
            Kind::DuringBackup => self.during_backup(to),
            Kind::Partition => self.partition(to),
        };
        let how = self.returns[self.world.random(0..self.returns.len())];
        self.cluster.gather(how);
        self.clients.start(self.cluster.primary());
        let took = self.join_watch();
        eprintln!(
            "{kind:?}: node {} on timeline {} from {}, others by {how:?}, streaming after {took:?}, {:.1?} in all",
            promotion.node,
            promotion.timeline,
            promotion.fork,
            began.elapsed()
        );
    }

    // ---- the parts of a round

    /// Clients write, and a moment is remembered that every standby has.
    fn live(&mut self) {
        self.clients.start(self.cluster.primary());
        self.world.doze(LONGEST_LIFE);
        self.mark();
        self.wait_for_standbys();
        self.world.doze(LONGEST_LIFE);
    }

    fn mark(&mut self) {
        let name = format!("moment {}", self.moments.len());
        self.moments.push(Moment::mark(self.cluster.primary(), &name));
    }

    fn candidate(&self) -> usize {
        let standbys = self.cluster.standbys();
        standbys[self.world.random(0..standbys.len())]
    }

    fn chance(&self, of: usize) -> bool {
        self.world.random(0..of) == 0
    }

    fn promote(&mut self, to: usize) -> Promotion {
        let promotion = self.cluster.promote(to);
        self.watch(promotion);
        promotion
    }

    fn watch(&mut self, promotion: Promotion) {
        self.watch = Some(self.cluster.watch_for_the_engine(promotion.at));
    }

    /// How long the engine needed to stream from the new primary.
    #[track_caller]
    fn join_watch(&mut self) -> Option<Duration> {
        let took = self.watch.take()?.join().expect("watch for the engine");
        let took = took.expect("the engine does not stream from the new primary");
        self.waits.push(took);
        Some(took)
    }

    fn lose(&mut self, how: Loss, to: usize) -> Promotion {
        self.cluster.lose_primary(how);
        self.promote(to)
    }

    fn switch_over(&mut self, to: usize) -> Promotion {
        let promotion = self.cluster.switch_over(to);
        self.watch(promotion);
        promotion
    }

    fn lag(&mut self, to: usize) -> Promotion {
        self.cluster.hold_back(to);
        self.world.doze(LONGEST_LIFE);
        self.lose(Loss::Kill9, to)
    }

    /// The second primary gets a moment of its own and is lost within [`TWICE_WITHIN`].
    fn twice(&mut self) -> Promotion {
        self.cluster.lose_primary(Loss::Kill9);
        let first = self.cluster.promote(self.cluster.most_advanced());
        let next = self.candidate();
        self.cluster.follow(next, first.node);
        self.cluster.wait_until_follows(next);
        self.clients.start(self.cluster.primary());
        self.mark();
        self.cluster.wait_until_has(next, self.moments.last().expect("just marked").lsn);
        self.world.doze(LONGEST_LIFE);
        self.cluster.lose_primary(Loss::Kill9);
        let second = self.promote(next);
        let between = second.at - first.at;
        if between > TWICE_WITHIN {
            eprintln!("the two failovers were {between:.1?} apart");
        }
        second
    }

    fn without_engine(&mut self, to: usize, wal_goes: bool) -> Promotion {
        let service = self.service.take().expect("the service runs");
        match self.chance(2) {
            true => service.kill9(),
            false => service.stop(),
        }
        if wal_goes {
            self.flood();
        }
        self.cluster.lose_primary(Loss::Kill9);
        let promotion = self.cluster.promote(to);
        self.clients.start(self.cluster.primary());
        if wal_goes {
            // Before the WAL goes that the others still need.
            self.cluster.gather(Return::Clone);
            self.flood();
        }
        self.world.doze(LONGEST_CUT);
        self.service = Some(self.world.launch_backupd().expect_anything());
        // The time it takes to come back is another figure than that of a failover; it only has to come.
        let watch = self.cluster.watch_for_the_engine(Instant::now());
        let back = watch.join().expect("watch for the engine").expect("the engine comes back");
        eprintln!("streaming {back:.1?} after its start");
        promotion
    }

    /// Writes more WAL than the servers keep, and has them remove what they need not.
    fn flood(&mut self) {
        for _ in 0..FLOOD_SEGMENTS {
            self.cluster.primary().switch_segment();
        }
        self.wait_for_standbys();
        self.cluster.primary().sql("checkpoint");
        // A standby removes WAL once it has replayed the checkpoint.
        self.wait_for_standbys();
        for node in self.cluster.standbys() {
            self.cluster.server(node).sql("checkpoint");
        }
    }

    fn wait_for_standbys(&mut self) {
        let end = self.cluster.primary().lsn("select pg_current_wal_flush_lsn()");
        for node in self.cluster.standbys() {
            self.cluster.wait_until_has_or_clone(node, end);
        }
    }

    fn during_backup(&mut self, to: usize) -> Promotion {
        let known = self.started_backups();
        let mut backup = self.world.spawn_backupctl(&["backup"]);
        wait_until("the backup to begin", BACKUP_BEGINS_WITHIN, || {
            self.started_backups() > known || backup.exited().is_some()
        });
        let in_the_middle = backup.exited().is_none();
        let promotion = self.lose(Loss::Kill9, to);
        let code = backup.wait(BACKUP_ENDS_WITHIN);
        eprintln!(
            "the backup ended with {code}; it {} running",
            if in_the_middle { "was" } else { "was not" }
        );
        promotion
    }

    /// How many backups there ever were a file of, listed or not.
    fn started_backups(&self) -> usize {
        let keys = self.world.objects().keys();
        let ids = keys.iter().filter_map(|key| key.split_once("/backups/")?.1.split('/').next());
        let mut ids: Vec<&str> = ids.collect();
        ids.dedup();
        let beats = keys.iter().filter(|key| key.contains("/state/")).count();
        ids.len() + beats
    }

    fn partition(&mut self, to: usize) -> Promotion {
        let cut = self.cluster.primary_node();
        let link = if self.chance(2) { Link::Refuses } else { Link::Silent };
        self.cluster.proxy(cut).set(link);
        self.world.doze(LONGEST_CUT);
        let healed_before = self.chance(2);
        if healed_before {
            self.cluster.proxy(cut).set(Link::Up);
            self.world.doze(LONGEST_LIFE);
        }
        let promotion = self.lose(Loss::Kill9, to);
        self.cluster.proxy(cut).set(Link::Up);
        promotion
    }

    // ---- the end

    /// Prints how long the engine needed after each failover.
    pub(super) fn report(&self) {
        let mut waits = self.waits.clone();
        waits.sort();
        let (Some(worst), median) = (waits.last(), waits.get(waits.len() / 2)) else { return };
        eprintln!(
            "{} failovers, {} of them with the engine up: streaming from the new primary after {:.2?} in the median, \
             {worst:.2?} at worst",
            self.cluster.promotions().len(),
            waits.len(),
            median.copied().unwrap_or_default()
        );
    }

    /// Waits until a backup lies behind every hole.
    #[track_caller]
    pub(super) fn wait_until_holes_are_mended(&self, limit: Duration) {
        wait_until("a backup behind every hole", limit, || {
            list(&status(self.world), "holes").iter().all(|hole| !hole["covered_by"].is_null())
        });
    }

    /// Stops the load and, once everything is durable, the engine. Nothing may be missing that no hole explains.
    #[track_caller]
    pub(super) fn settle(&mut self) -> Wal {
        self.live();
        self.clients.stop();
        crate::harness::expect_survivors(&self.cluster, self.clients.told());
        self.cluster.wait_until_durable();
        let status = status(self.world);
        assert_eq!(list(&status, "unexplained_gaps"), &[] as &[Value], "{status:#}");
        self.service.take().expect("the service runs").stop();
        Wal { holes: list(&status, "holes").len(), status }
    }

    /// What status says can be restored.
    #[track_caller]
    pub(super) fn claimed(&self) -> Claimed {
        let status = status(self.world);
        let text = |window: &Value, field: &str| window[field].as_str().unwrap_or_default().to_owned();
        let window = |window: &Value| {
            assert!(lsn(window, "from_lsn") <= lsn(window, "to_lsn"), "{window:#}");
            (window["timeline"].as_u64().expect("a timeline"), text(window, "from"), text(window, "to"))
        };
        Claimed(list(&status, "windows").iter().map(window).collect())
    }

    /// Restores to the newest point, which must equal the primary, and to every moment that was remembered. Returns
    /// the moments that a restore refused.
    #[track_caller]
    pub(super) fn restore_everything(&self) -> Vec<Moment> {
        let mut newest = self.world.restore_newest();
        ledger::expect_same(&newest, self.cluster.primary());
        newest.destroy();
        self.moments.iter().filter(|moment| !self.restores_to(moment)).cloned().collect()
    }

    /// Whether a restore to this moment is not refused; what it delivers must be right.
    #[track_caller]
    fn restores_to(&self, moment: &Moment) -> bool {
        let data = self.world.fresh("restored");
        let timeline = moment.timeline.to_string();
        let target = ["--target-name", &moment.name, "--target-timeline", &timeline];
        let output = self.world.try_restore(&data, &[&target[..], &["--target-action", "promote"]].concat());
        if output.code != 0 {
            eprintln!("{} on timeline {timeline} is refused: {}", moment.name, output.stderr.trim());
            output.fails(8, &[]);
            return false;
        }
        let mut node = self.world.adopt(&data).start();
        node.wait_promoted();
        assert_eq!(ledger::digest(&node), moment.digest, "{moment:?}");
        node.destroy();
        true
    }
}
