//! The hybrid of runs and packed bits in which Parquet writes levels and places in a dictionary
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/#RLE>).

use arrow::{array::BooleanBufferBuilder, buffer::BooleanBuffer};
use bytes::{Buf, Bytes};

use crate::varint::{put_varint, take_varint};

/// Values are packed so many at a time.
const GROUP: usize = 8;

/// How many bits it takes to write numbers up to `largest`; at least one.
pub(crate) fn bit_width(largest: u32) -> u32 {
    (u32::BITS - largest.leading_zeros()).max(1)
}

/// Appends values of `width` bits, from 1 to 32. A value that comes eight times in a row, or more often, makes a run.
pub(crate) fn encode(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let mut packed = 0;
    let mut at = 0;
    while at < values.len() {
        let run = run_length(&values[at..]);
        if run >= GROUP {
            pack(&values[packed..at], width, out);
            put_varint((run as u64) << 1, out);
            out.extend_from_slice(&values[at].to_le_bytes()[..width.div_ceil(8) as usize]);
            at += run;
            packed = at;
        } else {
            at = (at + GROUP).min(values.len());
        }
    }
    pack(&values[packed..], width, out);
}

/// How often the first value comes in a row.
fn run_length(values: &[u32]) -> usize {
    let first = values[0];
    values
        .iter()
        .position(|value| *value != first)
        .unwrap_or(values.len())
}

/// Appends values as they are, with zeros behind them until they make whole groups.
fn pack(values: &[u32], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    put_varint((values.len().div_ceil(GROUP) as u64) << 1 | 1, out);
    let (groups, rest) = values.as_chunks::<GROUP>();
    for group in groups {
        pack_group(group, width, out);
    }
    if !rest.is_empty() {
        let mut group = [0; GROUP];
        group[..rest.len()].copy_from_slice(rest);
        pack_group(&group, width, out);
    }
}

fn pack_group(group: &[u32; GROUP], width: u32, out: &mut Vec<u8>) {
    let (mut bits, mut filled) = (0_u64, 0);
    for value in group {
        bits |= u64::from(*value) << filled;
        filled += width;
        if filled >= u32::BITS {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= u32::BITS;
            filled -= u32::BITS;
        }
    }
    out.extend_from_slice(&bits.to_le_bytes()[..filled.div_ceil(8) as usize]);
}

/// The first `count` values of one bit; none when they are not all there.
pub(crate) fn decode_bits(mut bytes: Bytes, count: usize) -> Option<BooleanBuffer> {
    let mut bits = BooleanBufferBuilder::new(count);
    while bits.len() < count {
        let header = usize::try_from(take_varint(&mut bytes)?).ok()?;
        let left = count - bits.len();
        if header & 1 == 0 {
            let value = bytes.try_get_u8().ok()?;
            bits.append_n((header >> 1).min(left), value != 0);
        } else {
            let packed = (header >> 1).min(left.div_ceil(GROUP));
            if packed > bytes.len() {
                return None;
            }
            bits.append_packed_range(0..left.min(packed * GROUP), &bytes[..packed]);
            bytes.advance(packed);
        }
        if header >> 1 == 0 {
            return None;
        }
    }
    Some(bits.finish())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the format has it, bit by bit.
    fn decode(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let (mut header, mut shift) = (0_u64, 0);
            loop {
                let (byte, rest) = bytes.split_first().unwrap();
                bytes = rest;
                header |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let size = if header & 1 == 0 {
                let size = width.div_ceil(8) as usize;
                let mut value = [0; 4];
                value[..size].copy_from_slice(&bytes[..size]);
                values.extend(std::iter::repeat_n(
                    u32::from_le_bytes(value),
                    header as usize >> 1,
                ));
                size
            } else {
                let packed = (header as usize >> 1) * GROUP;
                for value in 0..packed {
                    let bits = (0..width as usize).map(|bit| {
                        let bit_at = value * width as usize + bit;
                        u32::from(bytes[bit_at / 8] >> (bit_at % 8) & 1) << bit
                    });
                    values.push(bits.sum());
                }
                packed * width as usize / 8
            };
            bytes = &bytes[size..];
        }
        assert!(bytes.is_empty());
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            width in 1_u32..=32,
            runs in prop::collection::vec((any::<u32>(), 1_usize..30), 0..20),
        ) {
            let runs = runs.iter().map(|(value, run)| vec![value >> (32 - width); *run]);
            let values: Vec<u32> = runs.flatten().collect();
            let mut bytes = Vec::new();
            encode(&values, width, &mut bytes);
            prop_assert_eq!(decode(&bytes, width, values.len()), values);
        }

        #[test]
        fn bits_are_decoded(runs in prop::collection::vec((any::<bool>(), 1_usize..30), 0..20)) {
            let runs = runs.iter().map(|(value, run)| vec![u32::from(*value); *run]);
            let values: Vec<u32> = runs.flatten().collect();
            let mut bytes = Vec::new();
            encode(&values, 1, &mut bytes);
            let bits = decode_bits(bytes.clone().into(), values.len()).unwrap();
            prop_assert_eq!(bits.iter().map(u32::from).collect::<Vec<_>>(), &values[..]);
            prop_assert!(decode_bits(bytes.into(), values.len() + GROUP).is_none());
        }
    }

    #[test]
    fn a_width_holds_all_values_and_no_more() {
        let widths = [0, 1, 2, 3, 4, 255, 256, u32::MAX].map(bit_width);
        assert_eq!(widths, [1, 1, 2, 2, 3, 8, 9, 32]);
    }
}
