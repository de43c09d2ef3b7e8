//! Settings that tell a layer's kind by its number, where layers get new numbers.
//!
//! Every new layer must be of the kind that its source was. Where the rule gives that at the new
//! numbers too, it stays; a bound is moved if there is a place for it; else the plan is refused. A
//! list of kinds is the truth wherever there is one: then the rule beside it is no reason to refuse.

use checkpoint::json::Object;

use super::depth::{Depth, shortened};
use super::error::SettingError;
use super::number_rules::{Kind, NUMBER_RULES, NumberRule};
use super::rules::{
    INTERVAL_ENDINGS, LAYER_NUMBER_LISTS, PER_LAYER_LISTS, UNSTATED_LISTS, UnstatedList, is_of,
};

/// Makes the rules of `config`, whose lists are those of the new model already, fit the plan.
pub(super) fn fit(
    config: &mut Object,
    depth: &Depth,
    num_base_layers: &[usize],
    notes: &mut Vec<String>,
) -> Result<(), SettingError> {
    refuse_unknown_intervals(config)?;
    refuse_unstated_lists(config)?;
    for rule in NUMBER_RULES {
        let in_force = (rule.in_force)(depth.base());
        let kinds: Vec<Option<Kind>> = depth
            .configs
            .iter()
            .zip(num_base_layers)
            .map(|(config, num_layers)| (rule.kind)(config, *num_layers))
            .collect();
        if kinds[depth.donor].is_none() && !config.contains(rule.key) {
            continue;
        }
        let list = rule.lists.iter().copied().find(|key| is_stated_list(config, key));
        let decides = in_force && list.is_none();
        let expected = match source_kinds(rule, depth, &kinds) {
            Ok(Some(expected)) => expected,
            Err(error) if decides => return Err(error),
            Ok(None) | Err(_) => continue,
        };
        let Some(layer) = misfit(rule, config, &expected) else { continue };
        if rule.is_bound
            && (decides || config.contains(rule.key))
            && move_bound(rule, config, &expected, notes)
        {
            continue;
        }
        if decides {
            let (yes, no) = rule.kinds;
            let (expected, found) = if expected[layer] { (yes, no) } else { (no, yes) };
            let key = if config.contains(rule.key) { rule.key } else { rule.instead };
            let source_layer = depth.layers[layer][0].1;
            return Err(SettingError::ByNumber { key, layer, source_layer, expected, found });
        }
        if let (true, Some(list), true) = (in_force, list, config.contains(rule.key)) {
            notes.push(format!(
                "`{}` no longer describes `{list}`, which is the truth; a loader that reads only \
                 the former gives layers the wrong kind",
                rule.key
            ));
        }
    }
    Ok(())
}

/// For each new layer whether its sources are of the rule's first kind; `None` without a rule.
fn source_kinds(
    rule: &NumberRule,
    depth: &Depth,
    kinds: &[Option<Kind>],
) -> Result<Option<Vec<bool>>, SettingError> {
    let models = depth.models();
    if models.iter().all(|&model| kinds[model].is_none()) {
        return Ok(None);
    }
    if let Some(&model) = models.iter().find(|&&model| kinds[model].is_none()) {
        return Err(SettingError::Missing {
            key: rule.key.to_owned(),
            model: depth.names[model].to_owned(),
        });
    }
    let mut expected = Vec::with_capacity(depth.layers.len());
    for (layer, from) in depth.layers.iter().enumerate() {
        let mut of_sources =
            from.iter().filter_map(|&(m, k)| kinds[m].as_ref().map(|kind| kind(k)));
        let first = of_sources.next().unwrap_or_default();
        if of_sources.any(|kind| kind != first) {
            return Err(SettingError::MadeOfUnlike { key: rule.key.to_owned(), layer });
        }
        expected.push(first);
    }
    Ok(Some(expected))
}

/// The first new layer to which the rule of `config` gives another kind than expected.
fn misfit(rule: &NumberRule, config: &Object, expected: &[bool]) -> Option<usize> {
    let kind = (rule.kind)(config, expected.len())?;
    (0..expected.len()).find(|&layer| kind(layer) != expected[layer])
}

/// Moves the bound to the lowest place where it fits, if there is one.
fn move_bound(
    rule: &NumberRule,
    config: &mut Object,
    expected: &[bool],
    notes: &mut Vec<String>,
) -> bool {
    let old = config.text(rule.key).unwrap_or("its default").to_owned();
    for bound in 0..=expected.len() {
        let mut moved = config.clone();
        moved.insert(rule.key, &bound.into());
        if misfit(rule, &moved, expected).is_none() {
            *config = moved;
            notes.push(format!(
                "`{}` set from {old} to {bound}, as the layers have moved",
                rule.key
            ));
            return true;
        }
    }
    false
}

/// Refuses a number that seems to be a period of layers and is in no table.
fn refuse_unknown_intervals(config: &Object) -> Result<(), SettingError> {
    let is_known = |key: &str| {
        NUMBER_RULES.iter().any(|rule| rule.key == key)
            || key == "_sliding_window_pattern"
            || PER_LAYER_LISTS.contains(&key)
            || LAYER_NUMBER_LISTS.iter().any(|(known, _)| *known == key)
    };
    if is_stated_list(config, "layer_types") {
        return Ok(());
    }
    for key in config.keys() {
        let looks_like_one = INTERVAL_ENDINGS.iter().any(|ending| key.ends_with(ending));
        let chooses = config.read::<u64>(key).is_some_and(|value| value.is_ok_and(|it| it > 1));
        if looks_like_one && chooses && !is_known(key) {
            return Err(SettingError::UnknownInterval {
                key: key.to_owned(),
                value: shortened(config.text(key).unwrap_or_default()),
            });
        }
    }
    Ok(())
}

/// Refuses a list that is absent where the loader makes it up by a rule that is in no table.
fn refuse_unstated_lists(config: &Object) -> Result<(), SettingError> {
    let is_unstated = |list: &&UnstatedList| {
        is_of(config, list.families)
            && !is_stated_list(config, list.key)
            && !list.alternatives.iter().any(|key| config.get(key).is_some_and(|it| !it.is_null()))
    };
    UNSTATED_LISTS.iter().find(is_unstated).map_or(Ok(()), |list| {
        Err(SettingError::DependsOnDepth {
            key: list.key.to_owned(),
            value: "absent".to_owned(),
            why: "the family's loader makes it up from the numbers of the layers",
        })
    })
}

fn is_stated_list(config: &Object, key: &str) -> bool {
    config.get(key).is_some_and(|value| value.as_array().is_some_and(|items| !items.is_empty()))
}
