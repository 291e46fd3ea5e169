//! Numbers as packed differences of neighbours, Parquet's `DELTA_BINARY_PACKED`
//! (<https://parquet.apache.org/docs/file-format/data-pages/encodings/#DELTAENC>).

use bytes::{Buf, Bytes};

use crate::varint::{put_varint, take_varint};

/// A block has so many parts, each of which packs its numbers in as many bits as its largest needs.
const PARTS: usize = 4;
/// Blocks of more numbers are not read.
const MOST_OF_BLOCK: usize = 1 << 20;
/// Numbers are unpacked so many at a time.
const GROUP: usize = 32;

/// A number that Parquet stores in 32 or 64 bits.
pub(crate) trait Number: Copy + Default + Ord + Into<i64> {
    /// How many numbers a part of a block has.
    const PART: usize;
    const BITS: u32;

    /// The lower bits of a number.
    fn of(number: i64) -> Self;

    /// `self + other`, wrapping.
    fn plus(self, other: Self) -> Self;

    /// `self - other`, wrapping.
    fn minus(self, other: Self) -> Self;

    /// `self - other`, wrapping, without a sign.
    fn above(self, other: Self) -> u64;
}

impl Number for i32 {
    const PART: usize = 32;
    const BITS: u32 = Self::BITS;

    fn of(number: i64) -> Self {
        number as Self
    }

    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    fn above(self, other: Self) -> u64 {
        self.wrapping_sub(other).cast_unsigned().into()
    }
}

impl Number for i64 {
    const PART: usize = 64;
    const BITS: u32 = Self::BITS;

    fn of(number: i64) -> Self {
        number
    }

    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    fn above(self, other: Self) -> u64 {
        self.wrapping_sub(other).cast_unsigned()
    }
}

/// Appends numbers.
pub(crate) fn encode<N: Number>(numbers: &[N], out: &mut Vec<u8>) {
    let block = PARTS * N::PART;
    put_varint(block as u64, out);
    put_varint(PARTS as u64, out);
    put_varint(numbers.len() as u64, out);
    let first = numbers.first().copied().unwrap_or_default();
    put_zigzag(first.into(), out);
    let mut before = first;
    let mut deltas = vec![N::default(); block];
    for numbers in numbers.get(1..).unwrap_or_default().chunks(block) {
        deltas[0] = numbers[0].minus(before);
        for (delta, pair) in deltas[1..].iter_mut().zip(numbers.windows(2)) {
            *delta = pair[1].minus(pair[0]);
        }
        before = numbers[numbers.len() - 1];
        put_block(&deltas[..numbers.len()], out);
    }
}

fn put_block<N: Number>(deltas: &[N], out: &mut Vec<u8>) {
    let least = deltas.iter().copied().min().unwrap_or_default();
    put_zigzag(least.into(), out);
    let widths = out.len();
    out.extend([0; PARTS]);
    for (part, deltas) in deltas.chunks(N::PART).enumerate() {
        let most = deltas
            .iter()
            .map(|delta| delta.above(least))
            .max()
            .unwrap_or_default();
        let width = u64::BITS - most.leading_zeros();
        out[widths + part] = width as u8;
        pack(deltas.iter().map(|delta| delta.above(least)), width, N::PART, out);
    }
}

/// Appends numbers of `width` bits, with zeros behind them until there are `count`, a multiple of 8.
fn pack(numbers: impl Iterator<Item = u64>, width: u32, count: usize, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    let start = out.len();
    let end = start + count * width as usize / 8;
    let (mut bits, mut filled) = (0_u64, 0);
    for number in numbers {
        bits |= number << filled;
        filled += width;
        if filled >= u64::BITS {
            out.extend_from_slice(&bits.to_le_bytes());
            filled -= u64::BITS;
            // What did not fit; all of it did when nothing is left over.
            bits = number.checked_shr(width - filled).unwrap_or_default();
        }
    }
    out.extend_from_slice(&bits.to_le_bytes());
    out.resize(end, 0);
}

/// Appends a number whose sign is in its lowest bit.
fn put_zigzag(number: i64, out: &mut Vec<u8>) {
    put_varint(((number << 1) ^ (number >> 63)).cast_unsigned(), out);
}

/// Numbers that are read from where they are packed, some at a time.
#[derive(Debug)]
pub(crate) struct Packed<N> {
    bytes: Bytes,
    /// How many parts a block has, and how many numbers a part.
    shape: (usize, usize),
    /// How many numbers are not unpacked yet.
    left: usize,
    /// The widths of the parts of the block that are not unpacked yet, and how much of the first part is left.
    widths: Bytes,
    part_left: usize,
    least: N,
    last: N,
    unpacked: Vec<N>,
    /// How many of those have been read.
    read: usize,
}

impl<N: Number> Packed<N> {
    /// The numbers that `bytes` begin with, at most so many; moves `bytes` behind them.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub(crate) fn take(bytes: &mut Bytes, most: usize) -> Result<Self, &'static str> {
        let mut packed = Self::at_start(bytes.clone(), most)?;
        // Where they end, nothing says but the widths of all their parts.
        let mut end = Self {
            unpacked: Vec::new(),
            widths: Bytes::new(),
            bytes: packed.bytes.clone(),
            ..packed
        };
        while end.left > 0 {
            end.next_block()?;
            let whole = |width: &u8| end.shape.1 * usize::from(*width) / 8;
            let parts = end.left.div_ceil(end.shape.1);
            let size = end.widths.iter().take(parts).map(whole).sum();
            end.skip_bytes(size)?;
            end.left = end.left.saturating_sub(end.shape.0 * end.shape.1);
        }
        let size = packed.bytes.len() - end.bytes.len();
        packed.bytes.truncate(size);
        *bytes = end.bytes;
        Ok(packed)
    }

    fn at_start(mut bytes: Bytes, most: usize) -> Result<Self, &'static str> {
        let mut number = || {
            let number = take_varint(&mut bytes).ok_or("packed numbers end early")?;
            usize::try_from(number).map_err(|_| "packed numbers are too many")
        };
        let (block, parts, count) = (number()?, number()?, number()?);
        let first = take_varint(&mut bytes).ok_or("packed numbers end early")?;
        let part = block
            .checked_div(parts)
            .ok_or("packed numbers have blocks of no parts")?;
        if part == 0 || !part.is_multiple_of(GROUP) || part * parts != block || block > MOST_OF_BLOCK {
            return Err("packed numbers are in blocks of a size that cannot be");
        }
        if count > most {
            return Err("there are more packed numbers than values");
        }
        let first = N::of(unzigzag(first));
        Ok(Self {
            bytes,
            shape: (parts, part),
            left: count.saturating_sub(1),
            widths: Bytes::new(),
            part_left: 0,
            least: N::default(),
            last: first,
            unpacked: (count > 0).then_some(first).into_iter().collect(),
            read: 0,
        })
    }

    /// Appends the next `count` numbers.
    ///
    /// # Errors
    /// What is wrong with the bytes; that there are fewer.
    pub(crate) fn read(&mut self, count: usize, out: &mut Vec<N>) -> Result<(), &'static str> {
        let end = out.len() + count;
        let ready = &self.unpacked[self.read..];
        let ready = &ready[..ready.len().min(count)];
        out.extend_from_slice(ready);
        self.read += ready.len();
        while out.len() < end {
            if self.left == 0 {
                return Err("there are fewer packed numbers than values");
            }
            let even = self.unpack_even(end - out.len(), out)?;
            if even > 0 {
                continue;
            }
            let mut group = [N::default(); GROUP];
            let found = self.unpack(&mut group)?;
            let wanted = found.min(end - out.len());
            out.extend_from_slice(&group[..wanted]);
            self.unpacked.clear();
            self.unpacked.extend_from_slice(&group[wanted..found]);
            self.read = 0;
        }
        Ok(())
    }

    /// Appends the next numbers, at most `most`, where they rise or fall evenly; answers how many.
    fn unpack_even(&mut self, most: usize, out: &mut Vec<N>) -> Result<usize, &'static str> {
        if self.width()? > 0 {
            return Ok(0);
        }
        let count = self.part_left.min(self.left).min(most);
        let least = self.least;
        if least == N::default() {
            out.resize(out.len() + count, self.last);
        } else {
            out.extend((0..count).map(|_| {
                self.last = self.last.plus(least);
                self.last
            }));
        }
        self.left -= count;
        self.pass(count);
        Ok(count)
    }

    /// How many bits the next numbers have.
    fn width(&mut self) -> Result<u32, &'static str> {
        if self.part_left == 0 {
            if self.widths.is_empty() {
                self.next_block()?;
            }
            self.part_left = self.shape.1;
        }
        self.widths
            .first()
            .copied()
            .map(u32::from)
            .ok_or("packed numbers end early")
    }

    /// Goes on by so many numbers of a part.
    fn pass(&mut self, count: usize) {
        self.part_left -= count;
        if self.part_left == 0 {
            self.widths.advance(1);
        }
    }

    /// The next numbers; answers how many there are.
    fn unpack(&mut self, group: &mut [N; GROUP]) -> Result<usize, &'static str> {
        let width = self.width()?;
        if width > N::BITS {
            return Err("packed numbers have more bits than their type");
        }
        let size = width as usize * GROUP / 8;
        let found = self.bytes.get(..size).ok_or("packed numbers end early")?;
        let mut bits = [0; GROUP * 8 + 8];
        bits[..size].copy_from_slice(found);
        self.bytes.advance(size);
        for (at, number) in group.iter_mut().enumerate() {
            let above = bits_at(&bits, at * width as usize, width);
            self.last = self.last.plus(self.least).plus(N::of(above.cast_signed()));
            *number = self.last;
        }
        self.pass(GROUP);
        let count = self.left.min(GROUP);
        self.left -= count;
        Ok(count)
    }

    fn next_block(&mut self) -> Result<(), &'static str> {
        let least = take_varint(&mut self.bytes).ok_or("packed numbers end early")?;
        self.least = N::of(unzigzag(least));
        if self.bytes.len() < self.shape.0 {
            return Err("packed numbers end early");
        }
        self.widths = self.bytes.split_to(self.shape.0);
        Ok(())
    }

    fn skip_bytes(&mut self, count: usize) -> Result<(), &'static str> {
        if count > self.bytes.len() {
            return Err("packed numbers end early");
        }
        self.bytes.advance(count);
        Ok(())
    }
}

/// The number of `width` bits from a bit on.
fn bits_at(bits: &[u8; GROUP * 8 + 8], at: usize, width: u32) -> u64 {
    let (byte, shift) = (at / 8, at as u32 % 8);
    let Some(word) = bits.get(byte..).and_then(<[u8]>::first_chunk) else {
        return 0;
    };
    let mut number = u64::from_le_bytes(*word) >> shift;
    if width + shift > u64::BITS {
        number |= u64::from(bits[byte + 8]) << (u64::BITS - shift);
    }
    match width {
        0..u64::BITS => number & ((1 << width) - 1),
        _ => number,
    }
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded<N: Number>(numbers: &[N]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(numbers, &mut bytes);
        bytes
    }

    /// Encodes numbers and reads them again, so many at a time.
    fn check<N: Number + std::fmt::Debug>(numbers: &[N], steps: &[usize]) {
        let mut bytes = Bytes::from([&encoded(numbers)[..], b"behind"].concat());
        let mut packed = Packed::<N>::take(&mut bytes, numbers.len()).unwrap();
        assert_eq!(&bytes[..], b"behind");
        let mut found = Vec::new();
        for step in steps.iter().copied().chain([numbers.len()]) {
            packed
                .read(step.min(numbers.len() - found.len()), &mut found)
                .unwrap();
        }
        assert_eq!(found, numbers);
        assert!(packed.read(1, &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            width in 0_u32..=63,
            numbers in prop::collection::vec(any::<i64>(), 0..600),
            steps in prop::collection::vec(0_usize..100, 0..6),
        ) {
            let numbers: Vec<i64> = numbers.iter().map(|number| number >> width).collect();
            check(&numbers, &steps);
            let narrow: Vec<i32> = numbers.iter().map(|number| *number as i32).collect();
            check(&narrow, &steps);
        }

        #[test]
        fn bytes_that_are_no_numbers_are_refused(
            numbers in prop::collection::vec(any::<i64>(), 1..600),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encoded(&numbers);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            if let Ok(mut packed) = Packed::<i64>::take(&mut Bytes::from(bytes), numbers.len()) {
                let mut found = Vec::new();
                let _ = packed.read(numbers.len() + 1, &mut found);
                prop_assert!(found.len() <= numbers.len());
            }
        }
    }

    #[test]
    fn ends_of_the_range_wrap() {
        check(&[i64::MIN, i64::MAX, 0, i64::MIN, -1, i64::MAX], &[]);
        check(&[i32::MIN, i32::MAX, 0, i32::MIN, -1, i32::MAX], &[]);
    }

    #[test]
    fn more_numbers_than_there_may_be_are_refused() {
        let mut bytes = Bytes::from(encoded(&[1_i32, 2, 3]));
        assert!(Packed::<i32>::take(&mut bytes.clone(), 2).is_err());
        assert!(Packed::<i32>::take(&mut bytes, 3).is_ok());
    }

    #[test]
    fn numbers_that_rise_evenly_take_no_bits() {
        let rising: Vec<i64> = (0..100_000).map(|number| number * 7).collect();
        // A block of 256 has its smallest difference and four widths.
        assert!(encoded(&rising).len() < 100_000 / 256 * 5 + 20);
    }
}
