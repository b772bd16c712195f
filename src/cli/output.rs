//! Standard output and standard error, whose readers may be gone.

use std::{
    io::{self, BufWriter, StdoutLock, Write as _},
    ops::ControlFlow,
};

use super::CliError;

/// Writes a result to standard output. It is no fault if the reader has left, since it has seen enough.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::runtime(error)),
        _ => Ok(()),
    }
}

/// Buffered standard output for many lines.
pub(super) struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    fault: Option<io::Error>,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { out: BufWriter::new(io::stdout().lock()), fault: None }
    }

    /// Writes a line. Breaks if the line could not be written.
    pub(super) fn print(&mut self, line: &str) -> ControlFlow<()> {
        match self.out.write_all(line.as_bytes()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.fault = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Writes the buffered rest. As for [`print`], it is no fault if the reader has left.
    pub(super) fn finish(mut self) -> Result<(), CliError> {
        match self.fault.take().map_or_else(|| self.out.flush(), Err) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CliError::runtime(error)),
            _ => Ok(()),
        }
    }
}

/// Writes text that is not part of a result to standard error.
pub(super) fn remark(text: &str) {
    // Without standard error there is nowhere to report that it failed. The same goes for the line below.
    let _ = write!(io::stderr().lock(), "dstl: {text}");
}

/// Writes an error and its causes to standard error.
pub(super) fn complain(error: &CliError) {
    let mut text = format!("dstl: {error}");
    let mut cause = std::error::Error::source(error).and_then(std::error::Error::source);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let _ = writeln!(io::stderr().lock(), "{text}");
}
