//! What a starting process and its parent say to each other: messages of one fixed size.
//!
//! | process                       | parent                                                            |
//! |-------------------------------|-------------------------------------------------------------------|
//! | a [`Request`], maybe with a descriptor | does it, answers with the same number                    |
//! | [`Request::Ready`], waits     | `create` returns; answers to start it, or to let it wait at a socket without this process |
//! | [`Request::Executing`]        | from here on an end of file means that exec worked                |
//! | a failure record, then ends   | reaps it, takes everything down, returns the error                |
//! | end of file                   | the command runs (or the process was killed)                      |

use crate::plan::operation::Request;

/// Size of a message.
pub(crate) const SIZE: usize = 256;
const HEAD: usize = 16;
/// Room for words in a message.
pub(crate) const TEXT: usize = SIZE - HEAD;
const FAILURE: u32 = 0;

/// A message, decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message<'a> {
    /// A request, or the answer to one.
    Request(u32),
    /// A step failed: its place in the plan, the kernel's answer, a hint, and words.
    Failure { step: usize, errno: i32, detail: u32, text: &'a [u8] },
}

/// Encodes a request or its answer.
pub(crate) fn request(request: Request) -> [u8; SIZE] {
    let mut message = [0; SIZE];
    message[..4].copy_from_slice(&(request as u32).to_ne_bytes());
    message
}

/// Encodes a failure.
pub(crate) fn failure(step: usize, errno: i32, detail: u32, text: &[u8]) -> [u8; SIZE] {
    let mut message = [0; SIZE];
    message[..4].copy_from_slice(&FAILURE.to_ne_bytes());
    message[4..8].copy_from_slice(&(step as u32).to_ne_bytes());
    message[8..12].copy_from_slice(&errno.to_ne_bytes());
    message[12..16].copy_from_slice(&detail.to_ne_bytes());
    for (to, from) in message[HEAD..].iter_mut().zip(text) {
        *to = *from;
    }
    message
}

/// Decodes a message.
pub(crate) fn decode(message: &[u8; SIZE]) -> Message<'_> {
    let word =
        |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    match word(0) {
        FAILURE => {
            let text = &message[HEAD..];
            let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
            Message::Failure {
                step: word(4) as usize,
                errno: word(8) as i32,
                detail: word(12),
                text: &text[..end],
            }
        }
        request => Message::Request(request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_trip() {
        let bytes = failure(7, libc::EPERM, 3, b"proc");
        assert!(matches!(
            decode(&bytes),
            Message::Failure { step: 7, errno: libc::EPERM, detail: 3, text: b"proc" }
        ));
        assert!(
            matches!(decode(&request(Request::Ready)), Message::Request(n) if n == Request::Ready as u32)
        );
        let long = [b'x'; 1000];
        assert!(
            matches!(decode(&failure(0, 1, 0, &long)), Message::Failure { text, .. } if text.len() == TEXT)
        );
    }
}
