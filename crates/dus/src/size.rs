//! Sizes in bytes, as people write and read them.

use std::fmt;

/// A number of bytes, shown in decimal units as disks and Hugging Face count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let units: [(u64, &str); 4] =
            [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        // What rounds to 1000.00 of a unit is 1.00 of the next.
        match units.into_iter().find(|&(unit, _)| self.0 as f64 >= unit as f64 * 0.999_995) {
            Some((unit, name)) => write!(f, "{:.2} {name}", self.0 as f64 / unit as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// A count with its thousands set apart, such as 10,731,524,096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// A number of parameters as `general.size_label` of a GGUF file says it, such as 7.2B.
#[must_use]
pub fn label(num_parameters: u64) -> String {
    let units = [(1e12, 'T'), (1e9, 'B'), (1e6, 'M')];
    let count = num_parameters as f64;
    let (unit, name) = units.into_iter().find(|&(unit, _)| count > unit).unwrap_or((1e3, 'K'));
    let scaled = count / unit;
    let decimals = usize::from(scaled.round_ties_even() < 10.0);
    format!("{scaled:.decimals$}{name}")
}

/// Reads a size as Hugging Face does: a number of bytes, or one with KB, MB, GB, KiB, MiB or GiB.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let units: [(&str, u64); 8] = [
        ("KIB", 1 << 10),
        ("MIB", 1 << 20),
        ("GIB", 1 << 30),
        ("TIB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((upper.strip_suffix(name)?, *unit)))
        .unwrap_or((&upper, 1));
    let number = number.trim();
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    #[expect(clippy::cast_sign_loss, reason = "digits and a point have no sign")]
    (bytes >= 1.0 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(parse(text), expected, "{text}");
    }

    #[test]
    fn sizes_are_hugging_faces() {
        check("5GB", Some(5_000_000_000));
        check("5 gb", Some(5_000_000_000));
        check("1.5GiB", Some(1_610_612_736));
        check("200KB", Some(200_000));
        check("4096", Some(4096));
        for wrong in ["", "GB", "-1GB", "0", "5 apples", "1e3", "nanGB", "0.1", "1..2GB"] {
            check(wrong, None);
        }
    }

    #[test]
    fn sizes_and_counts_are_readable() {
        assert_eq!(Bytes(21_463_048_192).to_string(), "21.46 GB");
        assert_eq!(Bytes(999_999_999).to_string(), "1.00 GB");
        assert_eq!(Bytes(999_990_000).to_string(), "999.99 MB");
        assert_eq!(Bytes(999).to_string(), "999 B");
        assert_eq!(Count(10_731_524_096).to_string(), "10,731,524,096");
        assert_eq!(Count(100).to_string(), "100");
        assert_eq!(label(134_515_008), "135M");
        assert_eq!(label(7_241_732_096), "7.2B");
        assert_eq!(label(10_731_524_096), "11B");
        assert_eq!(label(4_096), "4.1K");
    }
}
