//! The log: one JSON object a line, to standard error.
//!
//! No line has a character of others raw that a terminal would take for a command. A panic is one
//! as well, and says only where: what it says besides may hold a pod's text.
//! Libraries say nothing: the AWS SDK logs answers as they came, with credentials in them.

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

/// Each line is written before its event is over.
pub fn start() {
    start_with(|| Escaped(stderr()));
}

/// Lines are written by a thread of their own, so that nobody waits for whoever reads them. With
/// more than [`ROOM`] unwritten, further ones are lost, and counted.
pub fn start_apart() -> io::Result<Apart> {
    let (sender, lines) = sync_channel(ROOM);
    let apart = Apart { sender, lost: Arc::default() };
    thread::Builder::new().name("log".to_owned()).spawn(move || write(&lines))?;
    let writer = Writer(apart.clone());
    start_with(move || Escaped(writer.clone()));
    Ok(apart)
}

/// A log that is written apart.
#[derive(Clone, Debug)]
pub struct Apart {
    sender: SyncSender<Line>,
    lost: Arc<AtomicU64>,
}

impl Apart {
    /// How many lines were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns when all lines are written, or cannot be for a while.
    pub fn finish(&self) {
        let (done, written) = sync_channel(1);
        if self.sender.try_send(Line::End(done)).is_ok() {
            // Late, or the thread is gone: there is nothing more that could be done.
            let _ = written.recv_timeout(LAST);
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
    /// The formatter brings each line whole.
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

/// Writes lines of JSON with the characters escaped that a terminal would take for commands.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    /// The formatter brings each line whole.
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

/// What has come meanwhile goes in one piece.
fn write(lines: &Receiver<Line>) {
    let mut piece = Vec::new();
    while let Ok(first) = lines.recv() {
        // To be woken for each line costs whoever writes it more than the line.
        thread::sleep(GATHER);
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
        tracing::error!(place, "panicked");
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

/// How long lines wait for each other; thousands come in a second, at most.
const GATHER: Duration = Duration::from_millis(5);
/// For the last lines of a process that ends.
const LAST: Duration = Duration::from_secs(1);
/// In bytes; more than a pipe holds is written in several goes anyway.
const LONGEST_PIECE: usize = 64 * 1024;
/// Lines of about 300 bytes: a third of a MiB.
const ROOM: usize = 1024;
