//! What somebody may have meant who wrote a name that there is not.

/// The longest name that is compared; a longer one was no slip of the pen.
const NAME_BYTES_MAX: usize = 64;

/// The candidate whose name is nearest to `name`, if it is near enough to have been meant: at most a third of `name` is
/// to be changed.
pub(super) fn nearest<'a, T>(name: &str, candidates: &'a [T], name_of: impl Fn(&T) -> &str) -> Option<&'a T> {
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    candidates
        .iter()
        .map(|candidate| (distance(name.as_bytes(), name_of(candidate).as_bytes()), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| distance * 3 <= name.len())
        .map(|(_, candidate)| candidate)
}

/// How many bytes must be put in, taken out or replaced to make `to` of `from` (Levenshtein).
fn distance(from: &[u8], to: &[u8]) -> usize {
    // costs[i]: from what was read of `from` so far to the first i bytes of `to`.
    let mut costs: Vec<usize> = (0..=to.len()).collect();
    for (read, from_byte) in from.iter().enumerate() {
        let mut diagonal = costs[0];
        costs[0] = read + 1;
        for (i, to_byte) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(from_byte != to_byte);
            diagonal = costs[i + 1];
            costs[i + 1] = replaced.min(costs[i] + 1).min(diagonal + 1);
        }
    }
    costs[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_the_bytes_to_change() {
        let cases =
            [("", "", 0), ("abc", "", 3), ("", "abc", 3), ("kitten", "sitting", 3), ("listen", "silent", 4)];
        for (from, to, expected) in cases {
            assert_eq!(distance(from.as_bytes(), to.as_bytes()), expected, "{from} {to}");
        }
    }

    #[test]
    fn only_a_near_name_is_suggested() {
        let nearest =
            |name: &str| nearest(name, &["grpc_listen", "http_listen", "data_dir"], |name| name).copied();
        assert_eq!(nearest("grpc_lisen"), Some("grpc_listen"));
        assert_eq!(nearest("grpc-listen"), Some("grpc_listen"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(nearest(&"x".repeat(1000)), None);
    }
}
