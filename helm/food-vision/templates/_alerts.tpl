{{- /* The alerts, for whichever operator looks at them. */ -}}
{{- define "food-vision.alerts" -}}
{{- $alerts := .Values.monitoring.alerts }}
{{- $r := printf "release=%q" .Release.Name }}
{{- $page := default "docs/runbook.md" $alerts.runbookUrl }}
{{- $memory := include "food-vision.bytes" .Values.resources.limits.memory }}
{{- $late := divf (include "food-vision.setting" (list . "requestTimeoutMs")) 2000 }}
{{- /* name, severity, for, expression, summary */ -}}
{{- range list
  (list "FoodVisionAbsent" "critical" "10m"
    (printf "absent(food_vision_ready{%s})" $r)
    "No pod of the service is seen at all.")
  (list "FoodVisionNotReady" "critical" (printf "%dm" (add 5 (divf (int (include "food-vision.startupSeconds" .)) 60 | ceil | int)))
    (printf "food_vision_ready{%s} == 0" $r)
    "A pod is not ready for longer than a start takes.")
  (list "FoodVisionRestarting" "critical" "0s"
    (printf "changes(process_start_time_seconds{%s}[30m]) >= 3" $r)
    "A pod was restarted three times in half an hour.")
  (list "FoodVisionFaults" "critical" "5m"
    (printf "sum(rate(food_vision_requests_total{%s,outcome=~\"internal_error|engine_failed|engine_stuck\"}[5m])) > 0" $r)
    "Requests fail through the service's own fault.")
  (list "FoodVisionRefusing" "warning" "10m"
    (printf "sum(rate(food_vision_rejected_total{%s,reason=~\"overloaded|deadline_exceeded\"}[5m])) / sum(rate(food_vision_requests_total{%s}[5m])) > %v" $r $r $alerts.refusedShare)
    "More requests come than the pods can take.")
  (list "FoodVisionSlow" "warning" "10m"
    (printf "histogram_quantile(0.99, sum by (le) (rate(food_vision_request_seconds_bucket{%s,route=\"/predict\"}[5m]))) > %v" $r $alerts.slowSeconds)
    "One request in a hundred takes too long.")
  (list "FoodVisionQueueOld" "warning" "5m"
    (printf "max(food_vision_queue_oldest_seconds{%s}) > %v" $r $late)
    "Photos wait for more than half of the request timeout.")
  (list "FoodVisionMemory" "warning" "5m"
    (printf "process_resident_memory_bytes{%s} + food_vision_decoders_memory_bytes{%s} > 0.9 * %s" $r $r $memory)
    "A pod uses more than 90 % of its memory limit.")
  (list "FoodVisionWrongProvider" "critical" "5m"
    (printf "food_vision_info{%s,provider!~\"|%s\"}" $r (include "food-vision.provider" .))
    "A pod serves from another provider than the release asks for.")
}}
- alert: {{ index . 0 }}
  expr: {{ index . 3 | squote }}
  for: {{ index . 2 }}
  labels:
    severity: {{ index . 1 }}
    release: {{ $.Release.Name | quote }}
    {{- with $alerts.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    summary: {{ index . 4 | quote }}
    runbook_url: {{ printf "%s#%s" $page (lower (index . 0)) | quote }}
{{- end }}
{{- end -}}
