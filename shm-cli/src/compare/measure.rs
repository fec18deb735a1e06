//! Everything that is measured of one mechanism.

use shm_common::Size;

use super::curve::Point;
use super::kind::{Kind, Mechanism, for_kind};
use super::pair::{Pair, Until, Work};
use super::payload::{NoRoom, Payload};
use super::peer::{Received, Sent};
use super::progress::Progress;
use super::remains::{self, Remains};
use super::report::{Figures, Outcome, verify};
use crate::Failure;
use crate::interrupts::{Interrupted, Interrupts};

/// What is to be measured of each mechanism.
pub(crate) struct Plan {
    pub(crate) payload: Payload,
    pub(crate) rounds: u32,
    /// The payloads of a curve, if there is to be one.
    pub(crate) curve: Option<Vec<Size>>,
}

/// Whoever sees to it that it is done.
pub(crate) struct Watch {
    progress: Progress,
    interrupts: Interrupts,
}

/// Why this machine, or this user, does not have it; none: it does.
pub(crate) fn unavailable(mechanism: Mechanism) -> Option<String> {
    for_kind!(mechanism, K => K::unavailable())
}

impl Plan {
    /// Begins with it, for so many mechanisms.
    pub(crate) fn begin(
        &self,
        interrupts: Interrupts,
        mechanisms: usize,
    ) -> Watch {
        remains::reap_all();
        let mut sizes = vec![self.payload.size()];
        let others = self.curve.iter().flatten().copied();
        sizes.extend(others.filter(|size| !self.has_moved(*size)));
        let progress = Progress::new(sizes, mechanisms);
        Watch { progress, interrupts }
    }

    /// Measures a mechanism that is there.
    ///
    /// # Errors
    ///
    /// Only that the user wants to stop; what else goes wrong is the outcome.
    pub(crate) fn measure(
        &self,
        mechanism: Mechanism,
        watch: &mut Watch,
    ) -> Result<Outcome, Failure> {
        watch.progress.begin(mechanism);
        let bytes = self.payload.size().bytes();
        let mut outcome = match self.measure_payload(mechanism, watch) {
            Ok((sent, received, remains)) => {
                let figures = (sent, &received);
                Outcome::measured(mechanism, bytes, figures, remains)
            }
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => {
                let failed =
                    Outcome::failed(mechanism, bytes, error.to_string());
                // A smaller payload might do.
                match error.is::<NoRoom>() {
                    true => failed,
                    false => return Ok(failed),
                }
            }
        };
        if let Some(sizes) = &self.curve {
            self.measure_curve(sizes, &mut outcome, mechanism, watch)?;
        }
        Ok(outcome)
    }

    fn measure_payload(
        &self,
        mechanism: Mechanism,
        watch: &mut Watch,
    ) -> Result<(Sent, Received, Remains), Failure> {
        let (payload, rounds) = (self.payload.clone(), self.rounds);
        let work = Work { mechanism, payload, rounds };
        let (sent, received) = watch.figures(&work)?;
        watch.progress.step("killing both");
        let pair = Pair::start(&work, Until::Killed)?;
        let Watch { progress, interrupts } = watch;
        let remains = remains::after_sigkill(pair, progress, interrupts)?;
        Ok((sent, received, remains))
    }

    fn measure_curve(
        &self,
        sizes: &[Size],
        outcome: &mut Outcome,
        mechanism: Mechanism,
        watch: &mut Watch,
    ) -> Result<(), Failure> {
        let mut points = Vec::new();
        for size in sizes {
            let point = match self.has_moved(*size) && outcome.verified {
                true => Ok(Point::measured(*size, outcome.figures)),
                false => point(*size, mechanism, watch),
            };
            match point {
                Ok(point) => points.push(point),
                Err(error) if error.is::<Interrupted>() => return Err(error),
                Err(error) if error.is::<NoRoom>() => {
                    points.push(Point::left_out(*size, error.to_string()));
                }
                Err(error) => {
                    outcome.fail(format!("at {size}: {error}"));
                    break;
                }
            }
        }
        outcome.curve = Some(points);
        Ok(())
    }

    /// Whether the payload itself is such a point of a curve.
    fn has_moved(&self, size: Size) -> bool {
        self.payload.path().is_none() && self.payload.size() == size
    }
}

/// By two processes of its own.
fn point(
    size: Size,
    mechanism: Mechanism,
    watch: &mut Watch,
) -> Result<Point, Failure> {
    let payload = Payload::Generated(size);
    payload.check_memory()?;
    let (sent, received) =
        watch.figures(&Work { mechanism, payload, rounds: 0 })?;
    verify(&sent, &received)?;
    Ok(Point::measured(size, Figures::new(size.bytes(), &sent)))
}

impl Watch {
    fn figures(&mut self, work: &Work) -> Result<(Sent, Received), Failure> {
        let Self { progress, interrupts } = self;
        progress.part(work.payload.size());
        Pair::start(work, Until::Moved)?.figures(progress, interrupts)
    }
}
