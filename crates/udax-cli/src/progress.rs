//! A notice of progress.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Tells on a terminal what is being done; silent elsewhere.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// For `steps` steps.
    pub(crate) fn new(steps: u64) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// The next step begins. Nothing is drawn until the one after: what is measured meanwhile is not disturbed.
    pub(crate) fn step(&self, what: impl Into<std::borrow::Cow<'static, str>>) {
        self.0.inc(1);
        self.0.set_message(what);
        self.0.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
