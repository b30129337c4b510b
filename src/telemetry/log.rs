//! The log: one JSON object per line, to standard error.
//!
//! Control characters are escaped, because lines contain text from clients and a terminal would
//! interpret them. A panic is logged with its source location only: its message may contain text
//! of a pod. Libraries do not log: the AWS SDK logs whole responses, including credentials.

use std::{
    io::{self, Write, stderr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::terminal::in_escapes;

/// Starts a log whose lines are written synchronously.
pub fn start() {
    start_with(|| Escaped(stderr()));
}

/// Starts a log that a separate thread writes, so that a slow reader of standard error delays no
/// review. Lines are dropped and counted while [`MOST_LINES`] lines wait.
pub fn start_apart() -> io::Result<Apart> {
    let (sender, lines) = sync_channel(MOST_LINES);
    let apart = Apart { sender, lost: Arc::default() };
    thread::Builder::new().name("log".to_owned()).spawn(move || write(&lines))?;
    let writer = Writer(apart.clone());
    start_with(move || Escaped(writer.clone()));
    Ok(apart)
}

/// A log that a separate thread writes.
#[derive(Clone, Debug)]
pub struct Apart {
    sender: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

impl Apart {
    /// Returns the number of dropped lines.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines are written, for [`FLUSH_TIME_LIMIT`] at most.
    pub fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.sender.try_send(Line::End(done)).is_ok() {
            // On a timeout, or if the thread stopped, nothing more can be done.
            let _ = written.recv_timeout(FLUSH_TIME_LIMIT);
        }
    }
}

#[derive(Debug)]
enum Line {
    End(SyncSender<()>),
    Text(Vec<u8>),
}

#[derive(Clone)]
struct Writer(Apart);

impl Write for Writer {
    /// Takes one whole line: the formatter calls it once per line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Apart { sender, lost } = &self.0;
        if sender.try_send(Line::Text(line.to_vec())).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines of JSON with escaped control characters.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    /// Takes one whole line: the formatter calls it once per line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Self(writer) = self;
        let text = String::from_utf8_lossy(line);
        writer.write_all(in_escapes(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Self(writer) = self;
        writer.flush()
    }
}

/// Writes lines until all senders are dropped. Lines that wait together are written together.
fn write(lines: &Receiver<Line>) {
    let mut piece = Vec::new();
    while let Ok(first) = lines.recv() {
        // Waking this thread for each line costs the sender more than the line itself.
        thread::sleep(BATCH_TIME);
        let mut ends = Vec::new();
        for line in std::iter::once(first).chain(lines.try_iter()) {
            match line {
                Line::End(done) => ends.push(done),
                Line::Text(text) => piece.extend_from_slice(&text),
            }
            if piece.len() > LONGEST_PIECE {
                break;
            }
        }
        // A full disk behind the log must not end the process.
        let _ = stderr().write_all(&piece);
        piece.clear();
        for done in ends {
            let _ = done.send(());
        }
    }
}

fn start_with(writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panic");
    }));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        .log_internal_errors(false)
        .with_writer(writer)
        .finish()
        .with(Targets::new().with_target("fab_session_injector", LevelFilter::INFO))
        .init();
}

/// How long the thread collects lines before it writes them. Thousands arrive per second at most.
const BATCH_TIME: Duration = Duration::from_millis(5);
/// Time limit for the last lines of a process that exits.
const FLUSH_TIME_LIMIT: Duration = Duration::from_secs(1);
/// Maximum length of one write, in bytes: the default capacity of a pipe.
const LONGEST_PIECE: usize = 64 * 1024;
/// Maximum number of unwritten lines: a third of a MiB with lines of about 300 bytes.
const MOST_LINES: usize = 1024;
