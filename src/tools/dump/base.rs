//! Decoded materializations: the index, files of pieces, files of images.

use super::{Node, crc};
use crate::checkpoint::base::{BaseIndex, Image, Piece, StoredFile};

pub(super) fn fields(index: &BaseIndex) -> Vec<(&'static str, Node)> {
    let (stored_bytes, changes) = index.extent();
    let (from, complete_at) = index.sqns().map_or((Node::None, Node::None), |(a, b)| (Node::text(a), Node::text(b)));
    let file = |(file, used): (crate::checkpoint::manifest::SnapshotFile, u64)| {
        Node::Fields(vec![
            ("name", Node::text(&file.name)),
            ("instance", Node::text(file.instance)),
            ("bytes", file.bytes.into()),
            ("bytes_in_use", used.into()),
        ])
    };
    vec![
        ("from", from),
        ("complete_at", complete_at),
        ("stored_bytes", stored_bytes.into()),
        ("changes", changes.into()),
        ("files", Node::list(index.files().into_iter().map(file))),
        ("images", Node::list(index.images().iter().map(image))),
        ("pieces", Node::list(index.pieces().map(piece))),
    ]
}

fn image(image: &Image) -> Node {
    let file = |stored: &StoredFile| {
        Node::Fields(vec![
            ("local_name", Node::text(&stored.local)),
            ("file", Node::text(&stored.file.name)),
            ("bytes", stored.file.bytes.into()),
            ("crc", crc(stored.crc)),
        ])
    };
    Node::Fields(vec![
        ("key_groups", Node::text(image.key_groups)),
        ("sqn", Node::text(image.sqn)),
        ("changes", image.changes.into()),
        ("files", Node::list(image.files.iter().map(file))),
    ])
}

fn piece(piece: &Piece) -> Node {
    let mut fields = vec![
        ("state", piece.state.0.into()),
        ("key_groups", Node::text(piece.key_groups)),
        ("hashes", Node::text(format_args!("{:016x}..={:016x}", piece.hashes.first, piece.hashes.last))),
        ("sqn", Node::text(piece.sqn)),
    ];
    if let Some(block) = &piece.block {
        fields.extend([
            ("file", Node::text(&block.file.name)),
            ("at", Node::text(format_args!("{}+{}", block.offset, block.stored_length))),
            ("bytes", block.length.into()),
            ("compression", Node::text(format!("{:?}", block.compression).to_lowercase())),
            ("crc", crc(block.crc)),
            ("changes", block.changes.into()),
        ]);
    }
    Node::Fields(fields)
}
