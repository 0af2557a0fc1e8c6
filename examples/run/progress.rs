//! One bar a layer, on a terminal only.

use std::collections::HashMap;
use std::io::{IsTerminal, stderr};
use std::sync::{Arc, Mutex, PoisonError};

use image_layers::{Event, Progress, Step};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

pub struct Bars {
    all: MultiProgress,
    layers: Arc<Mutex<HashMap<(Step, usize), ProgressBar>>>,
}

impl Bars {
    pub fn new(quiet: bool) -> Self {
        let all = MultiProgress::new();
        if quiet || !stderr().is_terminal() {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { all, layers: Arc::default() }
    }

    /// What image-layers calls with every few hundred KiB.
    pub fn progress(&self) -> Progress {
        let (all, layers) = (self.all.clone(), Arc::clone(&self.layers));
        Progress::new(move |event: Event| {
            let mut layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
            let bar = layers.entry((event.step, event.layer)).or_insert_with(|| all.add(bar(&event)));
            bar.set_position(event.bytes);
            bar.set_message(format!("{} entries", event.entries));
            if event.done {
                bar.finish_and_clear();
            }
        })
    }
}

fn bar(event: &Event) -> ProgressBar {
    let verb = match event.step {
        Step::Import => "import",
        Step::Unpack => "unpack",
        _ => "pack",
    };
    let style = ProgressStyle::with_template("{prefix} {bar:40} {bytes:>10}/{total_bytes:10} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = if event.total == 0 { ProgressBar::no_length() } else { ProgressBar::new(event.total) };
    bar.set_style(style);
    bar.set_prefix(format!("{verb} layer {}/{}", event.layer + 1, event.layers));
    bar
}
