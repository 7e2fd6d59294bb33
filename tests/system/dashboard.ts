// What a dashboard may be, for `tsc --strict`: Grafana's own types, as they look in JSON (an enum is
// one of its values), with each panel's options and fields those of its kind. Nothing else may be
// in it: a literal with a field that no type knows is an error.
import type { AnnotationQuery, Dashboard, DataQuery, DataSourceRef, Panel, RowPanel, VariableModel } from "@grafana/schema";
import type * as heatmap from "@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen";
import type * as stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as timeline from "@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen";
import type * as table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as timeseries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// The types of the Prometheus data source are in no package of their own.
interface Query extends DataQuery {
  expr: string;
}
interface PanelQuery extends Query {
  datasource: DataSourceRef;
  editorMode: "code";
  format: "time_series" | "table" | "heatmap";
  instant: boolean;
  legendFormat: string;
  range: boolean;
}
interface EventQuery extends Query {
  interval: string;
}
interface Annotation extends Omit<AnnotationQuery, "target"> {
  tagKeys: string;
  target: EventQuery;
  textFormat: string;
  titleFormat: string;
}

type Defaults<Custom> = Omit<NonNullable<Panel["fieldConfig"]>["defaults"], "custom"> & { custom: Custom };
interface Of<Kind extends string, Options, Custom>
  extends Omit<Panel, "type" | "title" | "description" | "targets" | "options" | "fieldConfig"> {
  description: string;
  fieldConfig: { defaults: Defaults<Custom>; overrides: [] };
  options: Options;
  targets: PanelQuery[];
  title: string;
  type: Kind;
}
type Drawn =
  | Of<"heatmap", heatmap.Options, heatmap.FieldConfig>
  | Of<"stat", stat.Options, Record<string, never>>
  | Of<"state-timeline", timeline.Options, timeline.FieldConfig>
  | Of<"table", table.Options, table.FieldConfig>
  | Of<"timeseries", timeseries.Options, timeseries.FieldConfig>;

interface Ours extends Omit<Dashboard, "annotations" | "panels" | "templating"> {
  annotations: { list: Annotation[] };
  panels: (Drawn | RowPanel)[];
  templating: { list: VariableModel[] };
}

type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}` ? N : never
    : T extends (infer U)[]
      ? Json<U>[]
      : T extends object
        ? { [K in keyof T]: Json<T[K]> }
        : T;

export type Checked = Json<Ours>;
