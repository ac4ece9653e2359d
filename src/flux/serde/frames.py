"""Frames, series, indexes and times of pandas as trees and back; this module is for never changing one silently.

Columns of a type of numpy are kept as arrays, those of dtype object as lists of values like any other, and those of
pandas' own types as Arrow, which needs pyarrow. What is written is read at once, and refused if it is not the same.
"""

from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from json import loads
from typing import Any

from flux.serde.arrays import array_tree
from flux.serde.classes import NotLoadedError, package
from flux.serde.tagging import FAMILIES, Refused, Tagger, Writer, dump, shown, shown_type, step_to
from flux.serde.untagging import DAMAGE, READERS, Untagger

# -- the values of a column or an index


def _values(tagger: Tagger, held: Any, depth: int) -> list[Any]:
    dtype = held.dtype
    if dtype.kind == "O" and dtype.name == "object":
        return ["object", tagger.sequence(list(held), depth)]
    if isinstance(dtype, package("numpy").dtype):
        return ["numpy", array_tree(tagger, held.to_numpy(), depth)]
    if isinstance(dtype, package("pandas").CategoricalDtype):
        held = held.array
        codes = array_tree(tagger, held.codes, depth)
        return ["category", codes, _index(tagger, held.categories, depth), bool(held.ordered)]
    return ["arrow", *_arrow(held.array)]


def _read_values(untagger: Untagger, tree: list[Any]) -> Any:
    kind, *parts = tree
    pandas = package("pandas")
    match kind:
        case "object":
            # Not by array(), which would make lists of equal length two dimensions.
            return package("numpy").fromiter(untagger.items(parts[0]), dtype=object)
        case "numpy":
            return untagger.untag(parts[0])
        case "category":
            dtype = pandas.CategoricalDtype(_read_index(untagger, parts[1]), ordered=parts[2])
            return pandas.Categorical.from_codes(untagger.untag(parts[0]), dtype=dtype)
        case _:
            return _read_arrow(*parts)


def _arrow(held: Any) -> tuple[str, str]:
    """The name of an array's type, and the array as an Arrow stream."""
    try:
        pyarrow = package("pyarrow")
        name = _name_of(held.dtype)
        column = pyarrow.array(held, from_pandas=True)
        if isinstance(held.dtype, package("pandas").StringDtype):  # Which has two forms in Arrow.
            column = column.cast(pyarrow.large_string())
        table = pyarrow.table({"": column}).combine_chunks()
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        data = b2a_base64(sink.getvalue(), newline=False).decode("ascii")
        back = _read_arrow(name, data)
        exact = type(back) is type(held) and back.dtype == held.dtype and back.equals(held)
    except NotLoadedError as missing:
        raise Refused(f"values of dtype {shown(held.dtype)} need {missing.name}: {missing.advice}") from None
    except DAMAGE as error:
        raise Refused(f"values of dtype {shown(held.dtype)} have no exact form in Arrow ({error})") from None
    if not exact:
        raise Refused(f"values of dtype {shown(held.dtype)} would come back changed from Arrow")
    return name, data


def _read_arrow(name: str, data: str) -> Any:
    pyarrow, pandas = package("pyarrow"), package("pandas")
    table = pyarrow.ipc.open_stream(a2b_base64(data)).read_all()
    table.validate(full=True)  # Or damaged bytes could be read far outside of them.
    column = table.column(0)
    dtype = pandas.ArrowDtype(column.type) if name == "pyarrow" else pandas.api.types.pandas_dtype(name)
    return dtype.__from_arrow__(column)


def _name_of(dtype: Any) -> str:
    pandas = package("pandas")
    if isinstance(dtype, pandas.ArrowDtype):
        return "pyarrow"
    if isinstance(dtype, pandas.StringDtype) and dtype.na_value is pandas.NA:
        return f"string[{dtype.storage}]"
    return str(dtype)


# -- indexes


def _index(tagger: Tagger, index: Any, depth: int) -> list[Any]:
    pandas = package("pandas")
    name = tagger.part(".name", index.name, depth)
    if type(index) is pandas.RangeIndex:
        return ["range", index.start, index.stop, index.step, name]
    if type(index) is pandas.MultiIndex:
        levels = [_index(tagger, level, depth) for level in index.levels]
        return ["multi", levels, [array_tree(tagger, codes, depth) for codes in index.codes]]
    freq = getattr(index, "freq", None) if type(index) is not pandas.PeriodIndex else None
    if freq is not None and pandas.tseries.frequencies.to_offset(freq.freqstr) != freq:
        raise Refused(f"the frequency {shown(freq)} of an index is more than its name {freq.freqstr}")
    return ["index", _values(tagger, index, depth), name, None if freq is None else freq.freqstr]


def _read_index(untagger: Untagger, tree: list[Any]) -> Any:
    kind, *parts = tree
    pandas = package("pandas")
    match kind:
        case "range":
            start, stop, step, name = parts
            return pandas.RangeIndex(start, stop, step, name=untagger.untag(name))
        case "multi":
            levels = [_read_index(untagger, level) for level in parts[0]]
            names = [level.name for level in levels]
            return pandas.MultiIndex(levels, [untagger.untag(codes) for codes in parts[1]], names=names)
        case _:
            values = _read_values(untagger, parts[0])
            index = pandas.Index(values, dtype=values.dtype, name=untagger.untag(parts[1]), tupleize_cols=False)
            if parts[2] is not None:
                index.freq = parts[2]
            return index


# -- what pandas calls its own


def _index_tree(tagger: Tagger, index: Any, depth: int) -> Any:
    return {"~Index": {"index": _index(tagger, index, depth)}}


def _series_tree(tagger: Tagger, series: Any, depth: int) -> Any:
    tree = {
        "values": _values(tagger, series, depth),
        "index": _index(tagger, series.index, depth),
        "name": tagger.part(".name", series.name, depth),
    }
    return {"~Series": tree | _extras(tagger, series, depth)}


def _read_series(untagger: Untagger, tree: dict[str, Any]) -> Any:
    values, index = _read_values(untagger, tree["values"]), _read_index(untagger, tree["index"])
    series = package("pandas").Series(values, index=index, dtype=values.dtype, name=untagger.untag(tree["name"]))
    series.attrs = untagger.untag(tree.get("attrs", {}))
    return series


def _frame_tree(tagger: Tagger, frame: Any, depth: int) -> Any:
    columns = []
    for place, label in enumerate(frame.columns):
        try:
            columns.append(_values(tagger, frame.iloc[:, place], depth))
        except Refused as refused:
            refused.steps.append(step_to(label))
            raise
    indexes = {"columns": _index(tagger, frame.columns, depth), "index": _index(tagger, frame.index, depth)}
    return {"~DataFrame": {**indexes, "values": columns} | _extras(tagger, frame, depth)}


def _read_frame(untagger: Untagger, tree: dict[str, Any]) -> Any:
    pandas = package("pandas")
    index, columns = _read_index(untagger, tree["index"]), _read_index(untagger, tree["columns"])
    values = (_read_values(untagger, column) for column in tree["values"])
    series = {place: pandas.Series(each, dtype=each.dtype) for place, each in enumerate(values)}
    frame = pandas.DataFrame(series, index=pandas.RangeIndex(len(index)))
    frame.index, frame.columns = index, columns
    frame.attrs = untagger.untag(tree.get("attrs", {}))
    return frame


def _extras(tagger: Tagger, value: Any, depth: int) -> dict[str, Any]:
    if not value.flags.allows_duplicate_labels:
        raise Refused(f"a {shown_type(type(value))} that allows no duplicate labels cannot be recorded")
    return {"attrs": tagger.part(".attrs", value.attrs, depth)} if value.attrs else {}


def _time_tree(tagger: Tagger, value: Any, depth: int) -> Any:
    zone = tagger.part(".tzinfo", getattr(value, "tzinfo", None), depth)
    number = value.to_numpy().astype("int64").item()
    return {"~pandas": [type(value).__name__, f"{number} {value.unit}", zone, getattr(value, "fold", 0)]}


def _read_time(untagger: Untagger, tree: list[Any]) -> Any:
    pandas, numpy = package("pandas"), package("numpy")
    name, text, zone, fold = tree
    number, _, unit = text.partition(" ")
    if name == "Timedelta":
        return pandas.Timedelta(numpy.timedelta64(int(number), unit))
    moment = pandas.Timestamp(numpy.datetime64(int(number), unit))
    moment = moment if zone is None else moment.tz_localize("UTC").tz_convert(untagger.untag(zone))
    return moment.replace(fold=fold)


def _missing(_: Tagger, value: Any, __: int) -> Any:
    return {"~pandas": [str(value).strip("<>"), str(value)]}


def _read_single(untagger: Untagger, tree: list[Any]) -> Any:
    return getattr(package("pandas"), tree[0]) if tree[0] in {"NaT", "NA"} else _read_time(untagger, tree)


def _checked(write: Writer) -> Writer:
    """The writer, but it refuses what does not come back as it was."""

    def checked(tagger: Tagger, value: Any, depth: int) -> Any:
        tree = write(tagger, value, depth)
        text = dump(tree)
        try:
            # What is written says type and content of all parts: if that is the same, so are they.
            back = Untagger().untag(loads(text))
            if type(back) is type(value) and dump(write(tagger, back, depth)) == text:
                return tree
            why = "as another one"
        except (NotLoadedError, *DAMAGE) as error:
            why = f"not at all: {shown(error)}"
        raise Refused(f"a {shown_type(type(value))} like this one would come back {why}")

    return checked


def _writer(kind: type) -> Writer | None:
    pandas = package("pandas")
    writers: dict[type, Callable[..., Any]] = {
        pandas.DataFrame: _frame_tree,
        pandas.Series: _series_tree,
        pandas.Timestamp: _time_tree,
        pandas.Timedelta: _time_tree,
    }
    if kind in {type(pandas.NaT), type(pandas.NA)}:
        return _missing
    write = writers.get(kind) or (_index_tree if issubclass(kind, pandas.Index) else None)
    return _checked(write) if write is not None else None


FAMILIES["pandas"] = _writer
READERS["~DataFrame"] = _read_frame
READERS["~Series"] = _read_series
READERS["~Index"] = lambda untagger, tree: _read_index(untagger, tree["index"])
READERS["~pandas"] = _read_single
