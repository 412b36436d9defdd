"""The pieces of hangwatch's dashboards, over Grafana's official SDK: panels, queries, variables, links.

Data sources come by variables only, so that a dashboard works wherever it is imported.
"""

from __future__ import annotations

from typing import TypeVar

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, tempo, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.tempo import SearchTableType

METRICS = models.DataSourceRef(type_val="prometheus", uid="${prometheus}")
TRACES = models.DataSourceRef(type_val="tempo", uid="${tempo}")
#: Query letters: Grafana knows a panel's queries by them.
REFS = "ABCDEFGH"
Panel = TypeVar("Panel", timeseries.Panel, table.Panel, stat.Panel, heatmap.Panel)


def board(uid: str, title: str, description: str) -> dashboard.Dashboard:
    made = dashboard.Dashboard(title).uid(uid).description(description).tags(["hangwatch"]).editable().refresh("10s")
    made = made.time("now-1h", "now").tooltip(models.DashboardCursorSync.CROSSHAIR).timezone("browser")
    return made.link(dashboard.DashboardLink("hangwatch").type(models.DashboardLinkType.DASHBOARDS).tags(["hangwatch"]).keep_time(True))


def source(name: str, kind: str) -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable(name).label(kind.capitalize()).type(kind)


def choice(name: str, label: str, query: str, several: bool = True) -> dashboard.QueryVariable:
    """Values of a label. ``several``: any number of them, all at first."""
    made = dashboard.QueryVariable(name).label(label).query({"query": query, "refId": name}).datasource(METRICS)
    made = made.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.ALPHABETICAL_ASC)
    if several:
        every = models.VariableOption(selected=True, text="All", value="$__all")
        made = made.multi(True).include_all(True).all_value(".*").current(every)
    return made


def promql(expr: str, legend: str = "", *, instant: bool = False, exemplars: bool = False) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(expr).datasource(METRICS).legend_format(legend or "__auto").exemplar(exemplars)
    return made.instant().format(PromQueryFormat.TABLE) if instant else made.range()


def traceql(query: str, limit: int = 50) -> tempo.Dataquery:
    return tempo.Dataquery().query(query).query_type("traceql").table_type(SearchTableType.SPANS).limit(limit).datasource(TRACES)


def lines(title: str, description: str, unit: str, *queries: prometheus.Dataquery, width: int = 12, height: int = 8) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST).placement(common_models.LegendPlacement.BOTTOM)
    made = timeseries.Panel().unit(unit).min(0).fill_opacity(8).line_width(2).legend(legend.show_legend(True))
    return _filled(made, title, description, queries, width, height)


def number(title: str, description: str, unit: str, expr: str, bad: float | None = 1, width: int = 4) -> stat.Panel:
    """``bad``: red from there on."""
    steps = [models.Threshold(value=None, color="green" if bad is not None else "text")]
    if bad is not None:
        steps.append(models.Threshold(value=bad, color="red"))
    limits = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
    made = stat.Panel().unit(unit).thresholds(limits).color_mode(common_models.BigValueColorMode.VALUE)
    made = made.graph_mode(common_models.BigValueGraphMode.AREA).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return _filled(made, title, description, (promql(expr),), width, 4)


def rows(title: str, description: str, *queries: object, width: int = 12, height: int = 8) -> table.Panel:
    return _filled(table.Panel().show_header(True), title, description, queries, width, height)


def spread(title: str, description: str, expr: str, width: int = 12, height: int = 8) -> heatmap.Panel:
    """A histogram's buckets over time."""
    query = promql(expr, "{{le}}").format(PromQueryFormat.HEATMAP)
    axis = heatmap.YAxisConfig().unit("s")
    return _filled(heatmap.Panel().calculate(False).y_axis(axis), title, description, (query,), width, height)


def _filled(made: Panel, title: str, description: str, queries: tuple[object, ...], width: int, height: int) -> Panel:
    made = made.title(title).description(description).span(width).height(height)
    for ref, query in zip(REFS, queries, strict=False):
        made = made.with_target(query.ref_id(ref))
    return made.datasource(TRACES if isinstance(queries[0], tempo.Dataquery) else METRICS)


def merged(made: table.Panel, columns: dict[str, str]) -> table.Panel:
    """Several instant queries as one table. ``columns``: the fields shown, in order, with their titles."""
    made = made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    order = {name: n for n, name in enumerate(columns)}
    options = {"indexByName": order, "renameByName": columns, "includeByName": dict.fromkeys(columns, True)}
    return made.with_transformation(models.DataTransformerConfig(id_val="organize", options=options))


def as_unit(made: table.Panel, column: str, unit: str) -> table.Panel:
    return made.override_by_name(column, [models.DynamicConfigValue(id_val="unit", value=unit)])


def linked(made: table.Panel, column: str, title: str, url: str) -> table.Panel:
    links = [{"title": title, "url": url}]
    return made.override_by_name(column, [models.DynamicConfigValue(id_val="links", value=links)])
