//! What must hold, looked at from below: whatever was acknowledged can be read from the storage as it is at this moment.

use std::path::Path;
use std::sync::Arc;

use pgformat::{Lsn, SegmentName};
use repository::wal::Range;
use repository::{Cluster, Repository};
use std::time::Duration;
use store::fault::{FaultStore, Faults};

use super::script::{TIMELINE, segment_size};
use super::server::Server;
use super::stores::Ground;

/// Reads with the code that restores use.
#[derive(Clone)]
pub struct Witness {
    pub server: Server,
    pub ground: Arc<Ground>,
}

pub type Verdict = Result<(), String>;

impl Witness {
    /// `None` as long as there is no repository.
    async fn cluster(&self) -> Option<Cluster> {
        Repository::open(self.ground.memory.clone()).await.ok()?.cluster("main").ok()
    }

    /// Looks whenever something was acknowledged or removed, until something is wrong.
    pub async fn watch(self) -> String {
        let mut told = self.server.0.told.subscribe();
        let mut seen = Lsn::INVALID;
        loop {
            let created = std::mem::take(&mut *self.ground.created.lock().unwrap());
            let removed = std::mem::take(&mut *self.ground.removed.lock().unwrap());
            let now = *told.borrow_and_update();
            if let Err(violation) =
                self.look(&created, &removed, std::mem::replace(&mut seen, now), now).await
            {
                return violation;
            }
            tokio::select! {
                biased;
                Ok(()) = told.changed() => {}
                () = self.ground.changed.notified() => {}
            }
        }
    }

    /// Objects do not change, so the bytes of each are compared once, when it comes. What was told is there when their names cover
    /// it; where some were removed, it is read as well.
    async fn look(&self, created: &[String], removed: &[String], seen: Lsn, told: Lsn) -> Verdict {
        let Some(cluster) = self.cluster().await else { return Ok(()) };
        for key in created {
            self.object_holds(&cluster, key).await?;
        }
        if told > seen || !removed.is_empty() {
            self.covers(&cluster, told).await?;
        }
        let mut names: Vec<_> = removed.iter().filter_map(|key| segment_of(key)).collect();
        names.dedup();
        for name in names.into_iter().filter(|name| name.start(segment_size()) < told) {
            self.segment_holds(&cluster, name, told).await?;
        }
        Ok(())
    }

    /// Whether the newest WAL that was told of is there, read as a restore reads it.
    pub async fn holds(&self, told: Lsn) -> Verdict {
        let Some(base) = self.server.state().base.filter(|base| *base < told) else { return Ok(()) };
        let cluster = self.cluster().await.ok_or("acknowledged, and there is no repository")?;
        self.covers(&cluster, told).await?;
        let mut name = SegmentName::containing(TIMELINE, Lsn(told.0 - 1), segment_size());
        self.segment_holds(&cluster, name, told).await?;
        name.number -= 1;
        if name.start(segment_size()) >= base {
            self.segment_holds(&cluster, name, told).await
        } else {
            Ok(())
        }
    }

    async fn covers(&self, cluster: &Cluster, told: Lsn) -> Verdict {
        let Some(base) = self.server.state().base.filter(|base| *base < told) else { return Ok(()) };
        let covered = cluster.timeline_coverage(TIMELINE, segment_size()).await.map_err(chain)?;
        match covered.end_from(base) {
            Some(reach) if reach >= told => Ok(()),
            reach => Err(format!(
                "acknowledged to {told}, but a restore would end at {reach:?}: {:?}",
                covered.ranges
            )),
        }
    }

    async fn object_holds(&self, cluster: &Cluster, key: &str) -> Verdict {
        let (size, script) = (segment_size(), &self.server.0.script);
        let file = key.rsplit('/').next().and_then(|name| name.strip_suffix(".zst"));
        let Some(file) = file else { return Ok(()) };
        let read = if let Some(name) = SegmentName::parse(file, size) {
            cluster.read_segment(name, size).await
        } else {
            let position = |digits: &str| u64::from_str_radix(digits, 16).map(Lsn);
            let (from, to) = file.split_once('-').ok_or("an object of no name we know")?;
            let range = Range { from: position(from).map_err(chain)?, to: position(to).map_err(chain)? };
            let name = segment_of(key).ok_or("a piece outside a segment")?;
            cluster.read_piece(name, size, range).await
        };
        match read {
            Ok((header, plain)) if plain == script.slice(header.from, header.to) => Ok(()),
            // Gone already; then others must hold what it held, which is looked into as well.
            Err(error) if error.is_not_found() => Ok(()),
            Ok((header, _)) => Err(format!("{key} holds other WAL than the server wrote: {header:?}")),
            Err(error) => Err(chain(error)),
        }
    }

    async fn segment_holds(&self, cluster: &Cluster, name: SegmentName, to: Lsn) -> Verdict {
        let (start, end) = (name.start(segment_size()), name.end(segment_size()).min(to));
        let plain = cluster.read_available(name, segment_size()).await.map_err(chain)?;
        let wanted = self.server.0.script.slice(start, end);
        let file = name.file_name(segment_size());
        if plain.len() < wanted.len() {
            let reached = start.advance(plain.len() as u64);
            return Err(format!("acknowledged to {to}, but {file} ends at {reached}"));
        }
        if plain.starts_with(wanted) {
            Ok(())
        } else {
            Err(format!("{file} holds other bytes than the server wrote"))
        }
    }

    /// A reader far away, whose every call takes time while the archive goes on: what was acknowledged before it began must be
    /// there for it too.
    pub async fn restore_from_afar(&self, seed: u64) -> Verdict {
        let told = self.server.told();
        let Some(base) = self.server.state().base.filter(|base| *base < told) else { return Ok(()) };
        let delay = Duration::ZERO..Duration::from_millis(800);
        let faults = Faults { delay, stale_listing: 0.3, ..Faults::default() };
        let far = FaultStore::new(self.ground.memory.clone(), seed, faults);
        let repository = Repository::open(Arc::new(far)).await.map_err(chain)?;
        let cluster = repository.cluster("main").map_err(chain)?;
        let catalog = engine::catalog::Catalog::load(&cluster).await.map_err(chain)?;
        let path = catalog.path(TIMELINE).ok_or("the first timeline is not known")?;
        let reach = catalog.reach(&path, TIMELINE, base);
        if reach.lsn < told {
            let covered = catalog.coverage.timelines.get(&TIMELINE);
            return Err(format!(
                "acknowledged to {told}, but a restore planned now ends at {reach:?}: {covered:?}"
            ));
        }
        let newest = SegmentName::containing(TIMELINE, Lsn(told.0 - 1), segment_size());
        let mut name = newest;
        for _ in 0..2 {
            if name.start(segment_size()) >= base {
                self.segment_holds(&cluster, name, told)
                    .await
                    .map_err(|text| format!("read from afar: {text}"))?;
            }
            name.number -= 1;
        }
        Ok(())
    }

    /// The end: everything is there, nothing else is, and no hole was recorded.
    pub async fn is_complete(&self, directory: &Path) -> Verdict {
        let (script, size) = (&self.server.0.script, segment_size());
        let base = self.server.state().base.ok_or("there never was a slot")?;
        let cluster = self.cluster().await.ok_or("there is no repository")?;
        self.covers(&cluster, script.end()).await?;
        let covered = cluster.timeline_coverage(TIMELINE, size).await.map_err(chain)?;
        if !covered.holes.is_empty() {
            return Err(format!("holes were recorded: {:?}", covered.holes));
        }
        match covered.ranges.as_slice() {
            [one] if one.from == base && one.to == script.end() => {}
            // The server wrote nothing after the slot was made.
            [] if base == script.end() => {}
            ranges => return Err(format!("expected {base} to {}, found {ranges:?}", script.end())),
        }
        self.restore_command_delivers(&cluster, base, directory).await
    }

    /// What recovery would be handed, file by file.
    async fn restore_command_delivers(&self, cluster: &Cluster, base: Lsn, directory: &Path) -> Verdict {
        let (script, size) = (&self.server.0.script, segment_size());
        let mut name = SegmentName::containing(TIMELINE, base, size);
        while name.start(size) < script.end() {
            let file = name.file_name(size);
            let path = directory.join("wal");
            engine::fetch::fetch(cluster, None, &file, &path).await.map_err(chain)?;
            let found = std::fs::read(&path).map_err(chain)?;
            let wanted = script.slice(name.start(size), name.end(size).min(script.end()));
            if found.len() != size.len()
                || !found.starts_with(wanted)
                || found[wanted.len()..] != vec![0; found.len() - wanted.len()]
            {
                return Err(format!("restore_command delivers another {file} than the server wrote"));
            }
            name = name.next();
        }
        Ok(())
    }
}

fn chain(error: impl std::error::Error) -> String {
    engine::chain(&error)
}

/// The segment that a piece's key belongs to.
fn segment_of(key: &str) -> Option<SegmentName> {
    SegmentName::parse(key.rsplit('/').nth(1)?, segment_size())
}
