{{- /* What of `settings`, extraEnv and the other lists the service or Kubernetes would not take. */ -}}

{{- /* What a setting may be, in words, from its rule in chart.json. */ -}}
{{- define "food-vision.allowed" -}}
{{- if .enum -}}one of {{ join ", " .enum }}{{ if has "off" .enum }}, in quotes: YAML takes off for false{{ end }}
{{- else if eq .type "boolean" -}}true or false, without quotes
{{- else if eq .type "string" -}}a text, in quotes or by --set-string
{{- else -}}
{{- ternary "a whole number" "a number" (eq .type "integer") -}}
{{- if hasKey . "maximum" }} from {{ include "food-vision.text" .minimum }} to {{ include "food-vision.text" .maximum }}
{{- else if hasKey . "minimum" }} of at least {{ include "food-vision.text" .minimum }}{{ end }}, without quotes{{ if eq .type "number" }}, by --set-json or in a file: --set makes a text of a fraction{{ end }}
{{- end -}}
{{- end -}}

{{- /* "true" where a value is what its rule allows: (dict "rule" … "value" …). */ -}}
{{- define "food-vision.fits" -}}
{{- $rule := .rule -}}
{{- $value := .value -}}
{{- if kindIs "string" $value -}}
{{- if or (and (eq $value "") $rule.empty) (has $value (default list $rule.enum)) (and (eq $rule.type "string") (not $rule.enum)) -}}true{{- end -}}
{{- else if kindIs "bool" $value -}}
{{- if eq $rule.type "boolean" -}}true{{- end -}}
{{- else if has $rule.type (list "integer" "number") -}}
{{- $number := float64 $value -}}
{{- $least := ternary $rule.minimum $number (hasKey $rule "minimum") | float64 -}}
{{- $most := ternary $rule.maximum $number (hasKey $rule "maximum") | float64 -}}
{{- if and (or (eq $rule.type "number") (eq (floor $number) $number)) (ge $number $least) (le $number $most) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Known names that share most pairs of letters with a typed one, at most three: (list "typed" (list "known")). */ -}}
{{- define "food-vision.nearest" -}}
{{- $typed := index . 0 | lower | replace "_" "" -}}
{{- $scored := list -}}
{{- range $name := index . 1 -}}
{{- $common := 0 -}}
{{- range $i := until (sub (max 2 (len $typed)) 1 | int) -}}
{{- if contains (substr $i (int (add $i 2)) $typed) (lower $name) -}}{{- $common = add1 $common -}}{{- end -}}
{{- end -}}
{{- $score := div (mul 2000 $common) (add (len $typed) (len $name) -2) -}}
{{- if ge $score 600 -}}{{- $scored = append $scored (printf "%05d %s" $score $name) -}}{{- end -}}
{{- end -}}
{{- range $i, $row := sortAlpha $scored | reverse -}}
{{- if lt $i 3 -}}{{ ternary ", " "" (gt $i 0) }}{{ splitList " " $row | last }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "food-vision.check.settings" -}}
{{- $rules := (.Files.Get "chart.json" | fromJson).settings }}
{{- range $name, $value := .Values.settings }}
{{- $rule := get $rules $name }}
{{- if not $rule }}
{{- $near := include "food-vision.nearest" (list $name (keys $rules)) }}
settings.{{ $name }} is no setting of the service{{ with $near }}; near it: {{ . }}{{ end }} (docs/operations.md#settings lists all).
{{- else if $rule.managed }}
settings.{{ $name }} follows from {{ $rule.managed }}: set that, and leave it out.
{{- else if not (include "food-vision.fits" (dict "rule" $rule "value" $value)) }}
settings.{{ $name }} is {{ toJson $value }}, but must be {{ include "food-vision.allowed" $rule }}.
{{- end }}
{{- end }}
{{- if regexMatch "^(localhost|127\\..*|::1)?$" (toString .Values.settings.host) }}
settings.host is {{ toJson .Values.settings.host }}, where neither probes nor clients reach the pod: set it to 0.0.0.0, or to :: in a cluster of IPv6.
{{- end }}
{{- end -}}

{{- /* Variables that are there already: (list $ "extraEnv" LIST NAMES). */ -}}
{{- define "food-vision.check.variables" -}}
{{- $root := index . 0 }}
{{- $where := index . 1 }}
{{- $ours := index . 3 }}
{{- $seen := list }}
{{- range index . 2 }}
{{- $upper := upper .name -}}{{- /* the service reads them in either case */ -}}
{{- $setting := trimPrefix "FOOD_VISION_" $upper | lower | camelcase | untitle }}
{{- $rule := default dict (get ($root.Files.Get "chart.json" | fromJson).settings $setting) }}
{{- if and (hasPrefix "FOOD_VISION_" $upper) $rule }}
{{ $where }} names {{ .name }}, a setting of the service: set {{ default (printf "settings.%s" $setting) $rule.managed }} instead.
{{- else if hasPrefix "FOOD_VISION_" $upper }}
{{ $where }} names {{ .name }}, but the service has no such setting (docs/operations.md#settings lists all): leave it out.
{{- else if has .name $ours }}
{{ $where }} names {{ .name }}, which the chart sets itself: leave it out.
{{- else if has .name $seen }}
{{ $where }} names {{ .name }} twice: leave one out.
{{- end }}
{{- if and .value .valueFrom }}
{{ $where }} gives {{ .name }} both a value and a valueFrom: leave one out.
{{- end }}
{{- $seen = append $seen .name }}
{{- end }}
{{- end -}}

{{- define "food-vision.check.extras" -}}
{{- include "food-vision.check.variables" (list . "extraEnv" .Values.extraEnv (include "food-vision.env" . | fromYaml | keys)) }}
{{- $volumes := list }}
{{- range .Values.extraVolumes }}
{{- if has .name (list "tmp" "model" "engines" "api-keys" "photo") }}
extraVolumes names {{ .name }}, a volume of the chart: give it another name.
{{- else if has .name $volumes }}
extraVolumes names {{ .name }} twice: leave one out.
{{- end }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- $taken := list "/tmp" }}
{{- range include "food-vision.modelMount" . | fromYamlArray }}{{ $taken = append $taken .mountPath }}{{ end }}
{{- if ne .Values.engineCache.type "none" }}{{ $taken = append $taken "/engines" }}{{ end }}
{{- if include "food-vision.keysSecret" . }}{{ $taken = append $taken "/etc/food-vision" }}{{ end }}
{{- range .Values.extraVolumeMounts }}
{{- if not (has .name (append $volumes "tmp")) }}
extraVolumeMounts names {{ .name }}, which is not in extraVolumes: add it there{{ if has .name (list "model" "engines" "api-keys") }} by another name, since the chart mounts its own volumes itself{{ end }}.
{{- end }}
{{- $path := clean (default "" .mountPath) }}
{{- if not .mountPath }}
extraVolumeMounts names {{ .name }} without a mountPath: say where.
{{- else if has $path $taken }}
extraVolumeMounts puts {{ .name }} at {{ $path }}, where something is mounted already: take another path.
{{- end }}
{{- $taken = append $taken $path }}
{{- end }}
{{- $names := list "food-vision" "engines" "fetch" "test" }}
{{- range .Values.initContainers }}
{{- if has .name $names }}
initContainers names {{ .name }}, which is there already: give it another name.
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- range $name := keys .Values.podLabels | sortAlpha }}
{{- if has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "food-vision-release") }}
podLabels names {{ $name }}, which the chart sets itself: leave it out.
{{- end }}
{{- end }}
{{- if and .Values.apiKeys.existingSecret .Values.apiKeys.generate }}
apiKeys.existingSecret and apiKeys.generate are both set: take one of them.
{{- end }}
{{- end -}}
