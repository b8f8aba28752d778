//! Progress: a bar on a terminal, else a line now and then.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;

use crate::output::{self, Output};

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two looks at a terminal's bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// What there is to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shown {
    /// What is being done.
    pub what: String,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, as far as known.
    pub bytes_total: u64,
}

/// Runs `work` and shows meanwhile what `watched` says.
pub(crate) async fn show<P: Clone, T>(
    output: &Output,
    watched: watch::Receiver<P>,
    describe: impl Fn(&P) -> Shown,
    work: impl Future<Output = T>,
) -> T {
    if output.quiet {
        return work.await;
    }
    tokio::pin!(work);
    let look = || describe(&watched.borrow());
    if io::stderr().is_terminal() {
        let bar = ProgressBar::new(0);
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                () = tokio::time::sleep(BAR_INTERVAL) => draw(&bar, look()),
            }
        };
        bar.finish_and_clear();
        return done;
    }
    let begun = Instant::now();
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(LINE_INTERVAL) => output.note(&line(&look(), begun.elapsed())),
        }
    }
}

/// A bar where it is known how much there is, else the time that has passed.
fn draw(bar: &ProgressBar, shown: Shown) {
    let template = match shown.bytes_total {
        0 => "{msg}, {elapsed}",
        _ => "{msg} [{bar:30}] {prefix}, {eta} left",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    let total = shown.bytes_total.max(shown.bytes);
    bar.set_prefix(format!("{} of {}", output::size(shown.bytes), output::size(total)));
    bar.update(|state| {
        state.set_len(total);
        state.set_pos(shown.bytes);
    });
    bar.set_message(shown.what);
}

fn line(shown: &Shown, elapsed: Duration) -> String {
    let Shown { what, bytes, bytes_total } = shown;
    let elapsed = output::duration(elapsed);
    if *bytes_total == 0 {
        return format!("{what}, {elapsed}");
    }
    let total = (*bytes_total).max(*bytes);
    let percent = u128::from(*bytes) * 100 / u128::from(total.max(1));
    format!("{what}: {percent} %, {} of {}, {elapsed}", output::size(*bytes), output::size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_far_it_is() {
        let shown = Shown { what: "copying".into(), bytes: 1 << 20, bytes_total: 4 << 20 };
        assert_eq!(line(&shown, Duration::from_secs(20)), "copying: 25 %, 1.0 MB of 4.0 MB, 20 s");
        let waiting = Shown { what: "waiting".into(), ..Shown::default() };
        assert_eq!(line(&waiting, Duration::from_secs(20)), "waiting, 20 s");
    }
}
