//! The end of a command that calls a gateway, and its exit code.

use super::print_error;

/// The end of a command.
#[derive(Debug)]
pub(super) enum Ending {
    /// Everything is done, now or before.
    Complete,
    /// The gateway refused something, or the input has faults. They are printed already.
    Refused,
    /// A signal ended the command.
    Interrupted,
    /// The gateway could not be reached, or had no room until the retries ended.
    Unavailable(anyhow::Error),
    /// The caller is not allowed to do it.
    Denied(anyhow::Error),
    /// The arguments contradict each other.
    Misused(anyhow::Error),
    /// Something else failed: a file cannot be read, or the gateway sent an unexpected response.
    Failed(anyhow::Error),
}

impl Ending {
    /// The exit code, from `sysexits.h` where it has one.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Failed(_) => 1,
            Self::Misused(_) => super::EX_USAGE,
            Self::Refused => 65,
            Self::Unavailable(_) => 75,
            Self::Denied(_) => 77,
            Self::Interrupted => 130,
        }
    }

    /// Prints the error, if it has one that was not printed yet.
    pub(super) fn print(&self) {
        match self {
            Self::Complete | Self::Refused | Self::Interrupted => {}
            Self::Unavailable(error) | Self::Denied(error) | Self::Misused(error) | Self::Failed(error) => {
                print_error(format_args!("tidings: {error:#}"));
            }
        }
    }
}
