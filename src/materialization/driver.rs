//! The driver of a materialization: it takes one step after another from a source, and uploads the new parts.
//!
//! ```text
//!   source: the present contents, step by step ─┐                       ┌─ known: stamped anew
//!   source: a cut, frozen at a barrier ─────────┴─▶ Step, Step, … Done ─┤
//!                                                                       └─ new: uploaded ─▶ index ─▶ Made
//! ```
//!
//! The driver holds nothing while it uploads: a source looks at its backend only within a step.

use std::sync::Arc;

use super::{
    images::ImageWriter,
    pieces::{PiecePlace, PieceWriter},
    target::{Made, MaterializationError, Target},
};
use crate::{
    checkpoint::base::{Image, Piece},
    state::{image::LocalImage, snapshot::PieceContents},
    types::{KeyGroup, Sqn},
};

/// A part of the contents, or their end.
#[derive(Debug)]
pub enum Step {
    /// A piece of this key group is on the store already, unchanged up to `sqn`.
    KnownPiece {
        /// The piece as it is on the store.
        piece: Piece,
        /// The key group that it is reused for.
        group: KeyGroup,
        /// All changes below are in it.
        sqn: Sqn,
    },
    /// A piece was copied.
    CopiedPiece {
        /// The place that it has in the state.
        place: PiecePlace,
        /// All changes below are in it.
        sqn: Sqn,
        /// Its contents; `None` if it is empty.
        contents: Option<PieceContents>,
    },
    /// An image is on the store already, unchanged up to `sqn`.
    KnownImage {
        /// The image as it is on the store.
        image: Image,
        /// All changes below are in it.
        sqn: Sqn,
    },
    /// An image was taken.
    TakenImage {
        /// The image on local disk.
        image: Arc<LocalImage>,
        /// All changes below are in it.
        sqn: Sqn,
        /// The image of the same part on the store, whose files may be reused.
        previous: Option<Image>,
    },
    /// All is copied. At this sqn it was decided which states have pieces.
    Done(Sqn),
}

/// A backend that is copied step by step.
pub trait Source {
    /// The reason why a step cannot be done.
    type Error: From<MaterializationError>;

    /// The next step. It is asked for when the part of the step before is uploaded.
    fn next(&mut self) -> impl Future<Output = Result<Step, Self::Error>> + Send;
}

/// Makes a materialization of `source`. If the future is dropped, files stay on the store without a reference until a
/// sweep deletes them.
///
/// # Errors
/// If the source fails, or the store does not take an upload. Nothing is published then.
pub async fn run<S: Source>(target: Target, source: &mut S) -> Result<Made, S::Error> {
    let mut images = ImageWriter::new(target.clone());
    // It takes the number of its first file at once, and images come first.
    let (mut writer, begin) = (None, || PieceWriter::new(target.clone()));
    let listed_at = loop {
        match source.next().await? {
            Step::KnownPiece { piece, group, sqn } => writer.get_or_insert_with(begin).reuse(&piece, group, sqn),
            Step::CopiedPiece { place, sqn, contents } => {
                writer.get_or_insert_with(begin).add(place, sqn, contents).await?;
            }
            Step::KnownImage { image, sqn } => images.reuse(&image, sqn),
            Step::TakenImage { image, sqn, previous } => images.add(&image, sqn, previous.as_ref()).await?,
            Step::Done(listed_at) => break listed_at,
        }
    };
    let (images, image_bytes) = images.finish();
    Ok(writer.unwrap_or_else(begin).finish(images, image_bytes, listed_at).await?)
}
