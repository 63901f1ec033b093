//! Appends lines to a file so that a failure leaves no half of one in the middle.

use std::fs::File;
use std::io::{self, Write};

/// What a log is kept on.
pub(super) trait Medium {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A file opened for appending.
impl Medium for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

#[derive(Debug)]
pub(super) struct Log<M> {
    medium: M,
    /// How long the file is, in whole lines.
    length: u64,
    /// Set when it is unknown what the file holds. Nothing is written from then on.
    broken: bool,
}

impl<M: Medium> Log<M> {
    pub(super) fn new(medium: M, length: u64) -> Self {
        Self {
            medium,
            length,
            broken: false,
        }
    }

    /// Appends a line; a durable one is on the disk when this returns.
    ///
    /// A line that could be written in part is taken back. If that fails, or if the disk does not
    /// confirm, nobody can say what is there, and the log breaks.
    pub(super) fn append(&mut self, line: &[u8], durable: bool) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other(
                "an earlier write failed; start the server anew",
            ));
        }
        if let Err(error) = self.medium.append(line) {
            self.broken = self.medium.truncate(self.length).is_err();
            return Err(error);
        }
        self.length = self
            .length
            .saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
        if durable && let Err(error) = self.medium.sync() {
            self.broken = true;
            return Err(error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that takes `room` bytes and then no more.
    #[derive(Default)]
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        sync_fails: bool,
        truncate_fails: bool,
    }

    impl Medium for Disk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let fits = bytes.len().min(self.room - self.bytes.len());
            self.bytes.extend_from_slice(&bytes[..fits]);
            if fits < bytes.len() {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        }

        fn sync(&mut self) -> io::Result<()> {
            if self.sync_fails {
                Err(io::Error::other("sync"))
            } else {
                Ok(())
            }
        }

        fn truncate(&mut self, length: u64) -> io::Result<()> {
            if self.truncate_fails {
                return Err(io::Error::other("truncate"));
            }
            self.bytes.truncate(usize::try_from(length).unwrap());
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_leaves_whole_lines_and_a_log_that_goes_on() {
        let mut log = Log::new(
            Disk {
                room: 8,
                ..Disk::default()
            },
            0,
        );
        log.append(b"one\n", true).unwrap();
        assert!(log.append(b"three\n", true).is_err());
        assert_eq!(log.medium.bytes, b"one\n");
        log.append(b"two\n", true).unwrap();
        assert_eq!(log.medium.bytes, b"one\ntwo\n");
    }

    #[test]
    fn a_disk_that_does_not_confirm_breaks_the_log() {
        let mut log = Log::new(
            Disk {
                room: 99,
                sync_fails: true,
                ..Disk::default()
            },
            0,
        );
        assert!(log.append(b"one\n", true).is_err());
        log.medium.sync_fails = false;
        assert!(log.append(b"two\n", true).is_err());
        assert_eq!(log.medium.bytes, b"one\n");
    }

    #[test]
    fn half_a_line_that_cannot_be_taken_back_breaks_the_log() {
        let mut log = Log::new(
            Disk {
                room: 2,
                truncate_fails: true,
                ..Disk::default()
            },
            0,
        );
        assert!(log.append(b"one\n", false).is_err());
        log.medium.room = 99;
        assert!(log.append(b"two\n", false).is_err());
        assert_eq!(log.medium.bytes, b"on");
    }
}
