//! Every change of one field of a protobuf message, told from its bytes alone; and the envelope around it.

/// Most messages inside each other that are looked into.
const DEPTH: usize = 6;

/// One field as it stands in a message.
#[derive(Debug, Clone)]
struct Field {
    number: u32,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    Varint(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Bytes(Vec<u8>),
}

/// A message with one field changed, and which.
#[derive(Debug, Clone)]
pub(crate) struct Edit {
    pub(crate) what: String,
    pub(crate) message: Vec<u8>,
}

/// The kind and the message of an object in an envelope.
pub(crate) fn unseal(object: &[u8]) -> ([u8; 8], Vec<u8>) {
    (object[..8].try_into().unwrap(), object[16..object.len() - 4].to_vec())
}

/// An envelope with a right checksum.
pub(crate) fn seal(magic: [u8; 8], message: &[u8]) -> Vec<u8> {
    let mut object =
        [&magic[..], &1_u32.to_le_bytes(), &u32::try_from(message.len()).unwrap().to_le_bytes(), message].concat();
    let crc = crc32fast::hash(&object);
    object.extend(crc.to_le_bytes());
    object
}

/// Every edit of `message`.
pub(crate) fn edits(message: &[u8]) -> Vec<Edit> {
    let fields = parse(message).expect("a message");
    let mut edits = vec![];
    of_fields(&fields, 0, &mut |what, fields| edits.push(Edit { what, message: encode(fields) }));
    edits
}

fn of_fields(fields: &[Field], depth: usize, edit: &mut dyn FnMut(String, &[Field])) {
    for (at, field) in fields.iter().enumerate() {
        let name = format!("{}[{at}]", field.number);
        let mut put = |what: String, value: Value| {
            let mut fields = fields.to_vec();
            fields[at].value = value;
            edit(format!("{name} {what}"), &fields);
        };
        match &field.value {
            Value::Varint(old) => {
                for new in numbers(*old) {
                    put(format!("= {new}"), Value::Varint(new));
                }
            }
            Value::Eight(_) => {
                [0, u64::MAX].into_iter().for_each(|new| put(format!("= {new}"), Value::Eight(new.to_le_bytes())))
            }
            Value::Four(_) => {
                [0, u32::MAX].into_iter().for_each(|new| put(format!("= {new}"), Value::Four(new.to_le_bytes())))
            }
            Value::Bytes(bytes) => {
                for new in [vec![], vec![0; 16], vec![0xff; 40], b"../../x".to_vec()] {
                    put(format!("= {} bytes", new.len()), Value::Bytes(new));
                }
                if let Some(inner) = parse(bytes).filter(|_| depth < DEPTH) {
                    of_fields(&inner, depth + 1, &mut |what, inner| {
                        put(format!("> {what}"), Value::Bytes(encode(inner)))
                    });
                }
            }
        }
        let mut without = fields.to_vec();
        without.remove(at);
        edit(format!("{name} removed"), &without);
        let mut twice = fields.to_vec();
        twice.insert(at, field.clone());
        edit(format!("{name} twice"), &twice);
        if fields.get(at + 1).is_some_and(|next| next.number == field.number) {
            let mut swapped = fields.to_vec();
            swapped.swap(at, at + 1);
            edit(format!("{name} behind the next"), &swapped);
        }
    }
    for number in (1..=24).filter(|number| fields.iter().all(|field| field.number != *number)) {
        for value in [Value::Varint(u64::MAX), Value::Varint(1), Value::Bytes(vec![]), Value::Bytes(vec![0; 16])] {
            let mut more = fields.to_vec();
            edit(format!("{number} added: {value:?}"), {
                more.push(Field { number, value });
                &more
            });
        }
    }
}

/// Numbers at edges, and beside the right one.
fn numbers(old: u64) -> impl Iterator<Item = u64> {
    let edges = [0, 1, 32_768, 65_535, 1 << 24, 1 << 31, u64::from(u32::MAX), 1 << 48, 1 << 63, u64::MAX];
    edges.into_iter().chain([old.wrapping_add(1), old.wrapping_sub(1)]).filter(move |new| *new != old)
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = vec![];
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = u32::try_from(key >> 3).ok().filter(|number| (1..1000).contains(number))?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Eight(take(&mut bytes, 8)?.try_into().ok()?),
            5 => Value::Four(take(&mut bytes, 4)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?.to_vec())
            }
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(bytes).ok()
}

fn encode(fields: &[Field]) -> Vec<u8> {
    let mut out = vec![];
    for Field { number, value } in fields {
        let (wire, put): (u32, &[u8]) = match value {
            Value::Varint(_) => (0, &[]),
            Value::Eight(bytes) => (1, bytes),
            Value::Bytes(bytes) => (2, bytes),
            Value::Four(bytes) => (5, bytes),
        };
        prost::encoding::encode_varint(u64::from(number << 3 | wire), &mut out);
        match value {
            Value::Varint(value) => prost::encoding::encode_varint(*value, &mut out),
            Value::Bytes(bytes) => prost::encoding::encode_varint(bytes.len() as u64, &mut out),
            Value::Eight(_) | Value::Four(_) => {}
        }
        out.extend_from_slice(put);
    }
    out
}
