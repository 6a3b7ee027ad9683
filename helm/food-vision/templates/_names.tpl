{{- define "food-vision.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- /* 44 characters: the longest suffix of a name is 19 and a label has 63. */ -}}
{{- define "food-vision.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "food-vision.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 44 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 44 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What selects the pods of the service: never changes during an upgrade. */ -}}
{{- define "food-vision.selector" -}}
app.kubernetes.io/name: {{ include "food-vision.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "food-vision.commonLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: food-vision
{{- end -}}

{{- define "food-vision.labels" -}}
{{ include "food-vision.selector" . }}
{{ include "food-vision.commonLabels" . }}
{{- end -}}

{{- /* The labels of an object that is not the service: (dict "root" $ "component" "training"). */ -}}
{{- define "food-vision.labelsOf" -}}
app.kubernetes.io/name: {{ include "food-vision.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{ include "food-vision.commonLabels" .root }}
{{- end -}}

{{- define "food-vision.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "food-vision.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- /* Annotations of a service account that acts as a Google one, or as itself: (list ANNOTATIONS "name@project…"). */ -}}
{{- define "food-vision.serviceAccountAnnotations" -}}
{{- $annotations := deepCopy (index . 0) -}}
{{- with index . 1 -}}
{{- $_ := set $annotations "iam.gke.io/gcp-service-account" . -}}
{{- end -}}
{{- with $annotations }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- /* The service account of the Job that builds engines: hooks run before the release's own one is there, and it alone
       should be able to write engines. */ -}}
{{- define "food-vision.enginesServiceAccount" -}}
{{- $usual := ternary (printf "%s-engines" (include "food-vision.fullname" .)) (include "food-vision.serviceAccount" .) .Values.serviceAccount.create -}}
{{- default $usual .Values.engineCache.prebuild.serviceAccount.name -}}
{{- end -}}

{{- /* An image reference; the digest wins: .Values.image or .Values.training.image. */ -}}
{{- define "food-vision.image" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end -}}

{{- /* The image that the release of this chart pushed for these nodes, where no other is named; else nothing. One of the
       user's own takes nothing from here: a repository with a digest of another would be no image. */ -}}
{{- define "food-vision.releaseImage" -}}
{{- with .Values.image -}}
{{- if not (or .repository .tag .digest) -}}
{{- ternary .release.gpu .release.cpu (eq (include "food-vision.gpu" $) "true") -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "food-vision.serverImage" -}}
{{- default (include "food-vision.image" .Values.image) (include "food-vision.releaseImage" .) -}}
{{- end -}}
