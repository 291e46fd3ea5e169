//! Walks structures in Thrift's compact protocol
//! (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>) that anybody may have
//! written, without building anything of them. Errors go on from "its footer" or "a page".

use dormouse_core::Result;

pub(crate) const I32: u8 = 5;
pub(crate) const I64: u8 = 6;
pub(crate) const BINARY: u8 = 8;
pub(crate) const LIST: u8 = 9;
pub(crate) const STRUCT: u8 = 12;

/// Numbers and kinds of fields.
pub(crate) type Kinds = [(i16, u8)];

const MAX_DEPTH: usize = 24;

fn take_byte(input: &mut &[u8]) -> Result<u8, String> {
    let (first, rest) = input.split_first().ok_or("is cut short")?;
    *input = rest;
    Ok(*first)
}

fn take_varint(input: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take_byte(input)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("holds a number that is too long".to_owned())
}

/// A number of 32 bits. One of more bits is refused: decoders leave the upper ones out.
pub(crate) fn take_i32(input: &mut &[u8]) -> Result<i32, String> {
    let number = take_number(input)?;
    i32::try_from(number).map_err(|_| format!("holds {number} where 32 bits are expected"))
}

fn take_number(input: &mut &[u8]) -> Result<i64, String> {
    let zigzag = take_varint(input)?;
    Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

/// How many entries a list has, and of what kind.
pub(crate) fn take_list(input: &mut &[u8]) -> Result<(u64, u8), String> {
    let header = take_byte(input)?;
    let count = match header >> 4 {
        15 => take_varint(input)?,
        short => u64::from(short),
    };
    if count > input.len() as u64 {
        return Err(format!("claims a list of {count} entries"));
    }
    Ok((count, header & 0x0f))
}

/// Gives each field's number and kind to `visit`, which takes or skips its value.
pub(crate) fn for_each_field(
    input: &mut &[u8],
    mut visit: impl FnMut(i16, u8, &mut &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut id = 0_i16;
    loop {
        let header = take_byte(input)?;
        if header == 0 {
            return Ok(());
        }
        id = match header >> 4 {
            0 => take_number(input)? as i16,
            more => id.wrapping_add(i16::from(more)),
        };
        visit(id, header & 0x0f, input)?;
    }
}

/// As [`for_each_field`], where numbers must rise and fields with these numbers be of these kinds: a decoder that
/// knows a number does not look at the kind, and would take the bytes for something else.
pub(crate) fn for_each_field_of(
    input: &mut &[u8],
    kinds: &Kinds,
    mut visit: impl FnMut(i16, u8, &mut &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut last = 0;
    for_each_field(input, |id, kind, input| {
        let expected = kinds.iter().find(|(known, _)| *known == id);
        if id <= last || expected.is_some_and(|(_, expected)| *expected != kind) {
            return Err(format!("has a field {id} of kind {kind} where it may not be"));
        }
        last = id;
        visit(id, kind, input)
    })
}

/// Skips the value of a field.
pub(crate) fn skip(input: &mut &[u8], kind: u8) -> Result<(), String> {
    skip_field(input, kind, 0)
}

/// Checks that a structure is all there.
pub(crate) fn check_struct(mut input: &[u8]) -> Result<(), String> {
    skip_struct(&mut input, 0)
}

fn skip_bytes(input: &mut &[u8], count: u64) -> Result<(), String> {
    let count = usize::try_from(count).ok().filter(|count| *count <= input.len());
    *input = &input[count.ok_or("is cut short")?..];
    Ok(())
}

fn skip_struct(input: &mut &[u8], depth: usize) -> Result<(), String> {
    for_each_field(input, |_, kind, input| skip_field(input, kind, depth))
}

fn skip_field(input: &mut &[u8], kind: u8, depth: usize) -> Result<(), String> {
    match kind {
        1 | 2 => Ok(()),
        kind => skip_value(input, kind, depth),
    }
}

fn skip_value(input: &mut &[u8], kind: u8, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("is nested too deeply".to_owned());
    }
    match kind {
        1..=3 => skip_bytes(input, 1),
        4..=6 => take_varint(input).map(drop),
        7 => skip_bytes(input, 8),
        BINARY => {
            let length = take_varint(input)?;
            skip_bytes(input, length)
        }
        LIST | 10 => {
            let (count, kind) = take_list(input)?;
            (0..count).try_for_each(|_| skip_value(input, kind, depth + 1))
        }
        11 => {
            let count = take_varint(input)?;
            if count == 0 {
                return Ok(());
            }
            if count > input.len() as u64 {
                return Err(format!("claims a map of {count} entries"));
            }
            let kinds = take_byte(input)?;
            (0..count).try_for_each(|_| {
                skip_value(input, kinds >> 4, depth + 1)?;
                skip_value(input, kinds & 0x0f, depth + 1)
            })
        }
        STRUCT => skip_struct(input, depth + 1),
        other => Err(format!("holds a value of unknown kind {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_longer_than_the_input_is_refused() {
        // Field 4, a list of structs with a count of 2^28.
        let footer = [0x49, 0xfc, 0x80, 0x80, 0x80, 0x80, 0x01, 0x00];
        let error = check_struct(&footer).unwrap_err();
        assert!(error.contains("268435456 entries"), "{error}");
    }

    #[test]
    fn nesting_without_end_is_refused() {
        let footer = [0x1c; 1000];
        assert!(check_struct(&footer).unwrap_err().contains("deeply"));
    }

    #[test]
    fn what_stops_early_is_refused() {
        assert!(check_struct(&[0x15]).unwrap_err().contains("cut short"));
    }

    #[test]
    fn a_number_of_more_bits_is_refused() {
        let mut input = Vec::new();
        let mut zigzag = (1_u64 << 40) | 2;
        while zigzag >= 0x80 {
            input.push(zigzag as u8 | 0x80);
            zigzag >>= 7;
        }
        input.push(zigzag as u8);
        assert!(take_i32(&mut &input[..]).unwrap_err().contains("32 bits"));
        assert_eq!(take_i32(&mut &[3][..]), Ok(-2));
    }

    #[test]
    fn fields_have_the_numbers_and_values_that_were_written() {
        // Field 1 is -3, field 3 is true, field 20 in long form is 1.
        let input = [0x15, 5, 0x21, 0x05, 40, 2, 0];
        let mut found = Vec::new();
        for_each_field(&mut &input[..], |id, kind, input| {
            let value = if kind == I32 { take_i32(input)? } else { 0 };
            found.push((id, kind, value));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(1, I32, -3), (3, 1, 0), (20, I32, 1)]);
    }
}
