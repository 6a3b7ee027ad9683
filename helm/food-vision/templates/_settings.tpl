{{- /* "true" on a node with a GPU, else empty. */ -}}
{{- define "food-vision.gpu" -}}
{{- if ne .Values.node.mode "cpu" -}}true{{- end -}}
{{- end -}}

{{- /* What runs the model. Always said: a GPU image on a node without a driver then ends with a sentence, and never
       serves from the CPU by accident. */ -}}
{{- define "food-vision.provider" -}}
{{- default (ternary "cuda" "cpu" (eq (include "food-vision.gpu" .) "true")) .Values.settings.provider -}}
{{- end -}}

{{- /* A number without the exponent that Go gives to large ones. */ -}}
{{- define "food-vision.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}{{ printf "%.0f" . }}{{- else -}}{{ . | toString }}{{- end -}}
{{- end -}}

{{- /* Whole CPUs of a quantity as 2, "1500m" or "0.5", rounded up. */ -}}
{{- define "food-vision.cpus" -}}
{{- $text := toString . -}}
{{- if hasSuffix "m" $text -}}
{{- divf (float64 (trimSuffix "m" $text)) 1000.0 | ceil | int -}}
{{- else -}}
{{- ceil (float64 $text) | int -}}
{{- end -}}
{{- end -}}

{{- /* A quantity as "8Gi", "500M", "250m" or 1000000, in units of one. */ -}}
{{- define "food-vision.amount" -}}
{{- $text := include "food-vision.text" . -}}
{{- $units := dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "m" 0.001 -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- mulf (float64 (trimSuffix $unit $text)) (get $units $unit | default 1.0) | printf "%.3f" -}}
{{- end -}}

{{- define "food-vision.bytes" -}}
{{- include "food-vision.amount" . | float64 | printf "%.0f" -}}
{{- end -}}

{{- define "food-vision.bundle" -}}
{{- $model := .Values.model -}}
{{- if eq $model.source "baked" -}}{{ $model.baked.path }}
{{- else if eq $model.source "imageVolume" -}}{{ list "/models/bundle" $model.imageVolume.path | join "/" | clean }}
{{- else if eq $model.source "pvc" -}}{{ list "/models/bundle" $model.pvc.path | join "/" | clean }}
{{- else -}}/models/bundle
{{- end -}}
{{- end -}}

{{- /* A setting as the service will have it, the program's default included: (list $ "requestTimeoutMs"). */ -}}
{{- define "food-vision.setting" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $given := get $root.Values.settings $name -}}
{{- if ne (toString $given) "" -}}{{ include "food-vision.text" $given }}
{{- else -}}{{ include "food-vision.text" (get (get ($root.Files.Get "chart.json" | fromJson).settings $name) "default") }}
{{- end -}}
{{- end -}}

{{- /* The environment of the service as YAML: every setting that is given, then what the machine needs. */ -}}
{{- define "food-vision.env" -}}
{{- $env := dict -}}
{{- range $name, $value := .Values.settings -}}
{{- if ne (toString $value) "" -}}
{{- $_ := set $env (printf "FOOD_VISION_%s" ($name | snakecase | upper)) (include "food-vision.text" $value) -}}
{{- end -}}
{{- end -}}
{{- $asked := default dict .Values.resources.requests -}}
{{- $cpus := include "food-vision.cpus" (default (default 1 $asked.cpu) .Values.resources.limits.cpu) -}}
{{- range $name := list "FOOD_VISION_THREADS" "FOOD_VISION_DECODE_PROCESSES" -}}
{{- if eq (get $env $name) "0" -}}{{- $_ := set $env $name $cpus -}}{{- end -}}
{{- end -}}
{{- $_ := set $env "FOOD_VISION_PROVIDER" (include "food-vision.provider" .) -}}
{{- $_ := set $env "FOOD_VISION_BUNDLE" (include "food-vision.bundle" .) -}}
{{- $_ := set $env "FOOD_VISION_PORT" (include "food-vision.text" .Values.service.containerPort) -}}
{{- $_ := set $env "FOOD_VISION_SHUTDOWN_DELAY_SECONDS" (include "food-vision.shutdownDelaySeconds" .) -}}
{{- if ne .Values.engineCache.type "none" -}}{{- $_ := set $env "FOOD_VISION_ENGINE_CACHE" "/engines" -}}{{- end -}}
{{- if include "food-vision.keysSecret" . -}}{{- $_ := set $env "FOOD_VISION_API_KEYS_FILE" "/etc/food-vision/keys" -}}{{- end -}}
{{- $_ := set $env "ORT_DISABLE_TELEMETRY" "1" -}}
{{- $_ := set $env "HOME" "/tmp" -}}
{{- if include "food-vision.gpu" . -}}
{{- $_ := set $env "LD_LIBRARY_PATH" "/usr/local/nvidia/lib64" -}}
{{- $_ := set $env "CUDA_CACHE_PATH" "/tmp/cuda" -}}
{{- end -}}
{{- with .Values.tracing -}}
{{- if .endpoint -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_ENDPOINT" .endpoint -}}
{{- $_ := set $env "OTEL_EXPORTER_OTLP_TIMEOUT" (include "food-vision.text" .timeoutSeconds) -}}
{{- $_ := set $env "OTEL_SERVICE_NAME" (default (include "food-vision.fullname" $) .serviceName) -}}
{{- end -}}
{{- end -}}
{{- toYaml $env -}}
{{- end -}}

{{- /* The same as a container's `env`, and extraEnv behind it: (dict "root" $ "without" (list "NAME")). In the pod itself,
       since a pod that restarts during a roll must not read what the next revision says. */ -}}
{{- define "food-vision.containerEnv" -}}
{{- range $name, $value := include "food-vision.env" .root | fromYaml }}
{{- if not (has $name (default list $.without)) }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with .root.Values.extraEnv }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{- /* The Secret with the API keys; empty: no key is asked for. */ -}}
{{- define "food-vision.keysSecret" -}}
{{- if .Values.apiKeys.existingSecret -}}{{ .Values.apiKeys.existingSecret }}
{{- else if .Values.apiKeys.generate -}}{{ include "food-vision.fullname" . }}-keys
{{- end -}}
{{- end -}}

{{- define "food-vision.preStopSeconds" -}}
{{- .Values.termination.preStopSeconds | toString | default "5" -}}
{{- end -}}

{{- define "food-vision.shutdownDelaySeconds" -}}
{{- /* Behind a Gateway with the 5 s of preStop 35: until then its load balancer may send requests. */ -}}
{{- include "food-vision.text" .Values.settings.shutdownDelaySeconds | default (ternary "30" "10" (eq .Values.exposure.mode "gateway")) -}}
{{- end -}}

{{- /* Seconds in which a pod that ends still takes new requests, while its address leaves the load balancers. */ -}}
{{- define "food-vision.leaves" -}}
{{- add (int (include "food-vision.preStopSeconds" .)) (int (include "food-vision.shutdownDelaySeconds" .)) -}}
{{- end -}}

{{- /* Seconds from SIGTERM's announcement to the end: what terminationGracePeriodSeconds must hold. */ -}}
{{- define "food-vision.neededGrace" -}}
{{- $tracing := ternary (int .Values.tracing.timeoutSeconds) 0 (ne .Values.tracing.endpoint "") -}}
{{- $drain := int (include "food-vision.setting" (list . "drainSeconds")) -}}
{{- add (int (include "food-vision.preStopSeconds" .)) (int (include "food-vision.shutdownDelaySeconds" .)) $drain (int .Values.termination.marginSeconds) $tracing -}}
{{- end -}}

{{- define "food-vision.grace" -}}
{{- $given := int .Values.termination.gracePeriodSeconds -}}
{{- if $given -}}{{ $given }}{{- else -}}{{ include "food-vision.neededGrace" . }}{{- end -}}
{{- end -}}

{{- /* "true" where nodes may be Spot. */ -}}
{{- define "food-vision.spot" -}}
{{- $node := .Values.node -}}
{{- if eq $node.mode "accelerator" -}}{{ if $node.accelerator.spot }}true{{ end }}
{{- else if eq $node.mode "computeClass" -}}{{ if $node.computeClass.maySpot }}true{{ end }}
{{- else -}}{{ if $node.cpu.spot }}true{{ end }}
{{- end -}}
{{- end -}}

{{- define "food-vision.startupSeconds" -}}
{{- $seconds := dict "cpu" 300 "cuda" 600 "tensorrt" 3600 -}}
{{- $given := int .Values.probes.startupSeconds -}}
{{- if $given -}}{{ $given }}{{- else -}}{{ get $seconds (include "food-vision.provider" .) }}{{- end -}}
{{- end -}}
