use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::*;
use crate::progress::{Control, Step};

fn control() -> LayerControl {
    Control::default().layer(Step::Unpack, 0, 1, 0)
}

fn sample(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Nothing of this may wait for ever.
fn in_time<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let (done, waits) = channel::<()>();
        scope.spawn(move || {
            if waits.recv_timeout(Duration::from_secs(120)) == Err(RecvTimeoutError::Timeout) {
                // No panic ends threads that wait.
                std::process::abort();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

fn read_all(mut ahead: Ahead) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        match ahead.fill()? {
            [] => return Ok(all),
            bytes => {
                let n = bytes.len();
                all.extend_from_slice(bytes);
                ahead.consume(n);
            }
        }
    }
}

#[test]
fn everything_arrives_and_is_hashed_once() {
    for len in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, BUFFER * (BUFFERS + 3) + 7] {
        let data = sample(len);
        for beside in [false, true] {
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let (read, digest) =
                    in_time(|| run(&data[..], &control(), algorithm, beside, read_all)).unwrap();
                assert_eq!(read, data);
                assert_eq!(digest, Digest::of(algorithm, &data), "{len} {beside}");
            }
        }
    }
}

/// A reader that is slower than the decoder, and one that keeps what it takes as long as it can.
#[test]
fn pieces_that_are_held_stop_nothing_for_good() {
    let data = sample(BUFFER * BUFFERS * 3 + 5);
    for beside in [false, true] {
        let hold = |mut ahead: Ahead| {
            let (mut held, mut all) = (VecDeque::new(), Vec::new());
            while let Some(piece) = ahead.piece(100_000)? {
                all.extend_from_slice(piece.as_ref());
                held.push_back(piece);
                if held.len() > 20 {
                    held.pop_front();
                }
                thread::yield_now();
            }
            Ok((all, held))
        };
        let ((all, held), digest) =
            in_time(|| run(&data[..], &control(), Algorithm::Sha256, beside, hold)).unwrap();
        assert_eq!(all, data);
        assert_eq!(digest, Digest::sha256(&data));
        // They outlive the ring.
        let tail: Vec<u8> = held.iter().flat_map(|piece| piece.as_ref()).copied().collect();
        assert!(data.ends_with(&tail));
    }
}

#[test]
fn a_writer_that_drops_pieces_elsewhere() {
    let data = sample(BUFFER * BUFFERS * 4);
    let (read, digest) = in_time(|| {
        run(&data[..], &control(), Algorithm::Sha256, false, |mut ahead| {
            thread::scope(|scope| {
                let (send, receive) = channel::<Piece>();
                let writer =
                    scope.spawn(move || receive.iter().map(|piece| piece.as_ref().len()).sum::<usize>());
                while let Some(piece) = ahead.piece(usize::MAX)? {
                    send.send(piece).unwrap();
                }
                drop(send);
                Ok(writer.join().unwrap())
            })
        })
    })
    .unwrap();
    assert_eq!((read, digest), (data.len(), Digest::sha256(&data)));
}

#[test]
fn a_reader_that_gives_up_ends_the_decoder() {
    for taken in [0, 1, BUFFER * 2] {
        for beside in [false, true] {
            let result = in_time(|| {
                run(io::repeat(7), &control(), Algorithm::Sha256, beside, |mut ahead| {
                    let mut left = taken;
                    while left > 0 {
                        left -= ahead.piece(left)?.unwrap().as_ref().len();
                    }
                    Err::<(), _>(Error::Cancelled)
                })
            });
            assert!(matches!(result, Err(Error::Cancelled)));
        }
    }
}

#[test]
fn the_decoders_error_reaches_the_reader_behind_what_was_decoded() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.min(buffer.len());
            self.0 -= n;
            if n == 0 { Err(io::Error::other("broken")) } else { Ok(n) }
        }
    }
    let mut seen = 0;
    let result = in_time(|| {
        run(Broken(BUFFER * 2), &control(), Algorithm::Sha256, false, |mut ahead| {
            while let Some(piece) = ahead.piece(usize::MAX)? {
                seen += piece.as_ref().len();
            }
            Ok(())
        })
    });
    assert!(matches!(result, Err(Error::Io { .. })), "{result:?}");
    assert_eq!(seen, BUFFER * 2);
}

#[test]
fn cancelling_ends_it() {
    let control = Control::default();
    let layer = control.layer(Step::Unpack, 0, 1, 0);
    let result = in_time(|| {
        run(io::repeat(0), &layer, Algorithm::Sha256, false, |mut ahead| {
            ahead.piece(1)?;
            control.cancel.cancel();
            read_all(ahead)
        })
    });
    assert!(matches!(result, Err(Error::Cancelled)));
}

#[test]
fn a_panic_anywhere_is_passed_on() {
    struct Panics;
    impl Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("on purpose")
        }
    }
    let decoder = || run(Panics, &control(), Algorithm::Sha256, true, read_all);
    assert!(in_time(|| catch_unwind(AssertUnwindSafe(decoder)).is_err()));
    let reader = || {
        run(io::repeat(1), &control(), Algorithm::Sha256, true, |_| -> Result<()> { panic!("on purpose") })
    };
    assert!(in_time(|| catch_unwind(AssertUnwindSafe(reader)).is_err()));
}

fn member(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = super::super::Encoder::new(Vec::new(), crate::Compression::Gzip, Some(1)).unwrap();
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn members_are_checked_wherever_they_end() {
    // At the border of buffers and beside it, empty ones, and more than are kept of one buffer.
    let mut members: Vec<Vec<u8>> =
        vec![sample(BUFFER), vec![], vec![], sample(BUFFER - 1), sample(1), vec![]];
    members.extend((0..5000).map(|n| sample(n % 3)));
    members.extend([sample(BUFFER * 2 + 9), vec![], vec![]]);
    let data = members.concat();
    let packed: Vec<Vec<u8>> = members.iter().map(|data| member(data)).collect();
    let read = |packed: &[Vec<u8>]| {
        let blob = packed.concat();
        in_time(|| run(&blob[..], &control(), Algorithm::Sha256, false, read_all))
    };
    let (all, digest) = read(&packed).unwrap();
    assert!(all == data);
    assert_eq!(digest, Digest::sha256(&data));
    for number in [0, 1, 2, 3, 4, 5, 6, 7, 3000, packed.len() - 3, packed.len() - 2, packed.len() - 1] {
        for back in [1, 5] {
            let mut bad = packed.clone();
            let at = bad[number].len() - back;
            bad[number][at] ^= 1;
            assert!(matches!(read(&bad), Err(Error::Checksum { .. })), "{number} {back}");
        }
    }
}

#[test]
fn damage_is_named_before_its_consequences() {
    let blob = || {
        let mut bad = member(&sample(1000));
        let at = bad.len() - 6;
        bad[at] ^= 1;
        bad
    };
    // Whether the reader stumbles over it, the decoder does behind it, or a limit is exceeded.
    let stumble = |ahead| read_all(ahead).and(Err::<Vec<u8>, _>(Error::Cancelled));
    let result = in_time(|| run(&blob()[..], &control(), Algorithm::Sha256, false, stumble));
    assert!(matches!(result, Err(Error::Checksum { .. })), "{result:?}");
    let behind = [blob(), b"text".to_vec()].concat();
    let result = in_time(|| run(&behind[..], &control(), Algorithm::Sha256, false, read_all));
    assert!(matches!(result, Err(Error::Checksum { .. })), "{result:?}");
    let limits = crate::Limits { layer_bytes: 999, ..Default::default() };
    let control = Control { limits, ..Control::default() }.layer(Step::Unpack, 0, 1, 0);
    let result = in_time(|| run(&blob()[..], &control, Algorithm::Sha256, false, read_all));
    assert!(matches!(result, Err(Error::LimitExceeded { .. })), "{result:?}");
}
