{{- /* Up at once, to twice as many; down slowly, one at a time: a GPU node takes minutes to come back. */ -}}
{{- define "food-vision.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  selectPolicy: Max
  policies:
    - {type: Percent, value: 100, periodSeconds: 60}
    - {type: Pods, value: 2, periodSeconds: 60}
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies:
    - {type: Pods, value: 1, periodSeconds: 60}
{{- end -}}

{{- /* What is scaled on: gauges without labels, one number of each pod. The one that asks for most pods counts. */ -}}
{{- define "food-vision.scalingSignals" -}}
{{- $a := .Values.autoscaling -}}
{{- list
  (dict "name" "load-percent" "metric" "food_vision_load_percent" "target" $a.targetLoad)
  (dict "name" "photos-waiting" "metric" "food_vision_photos_waiting" "target" $a.targetWaiting)
  | toJson -}}
{{- end -}}
