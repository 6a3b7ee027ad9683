{{- /* The parts of a pod that the service and the Job that builds engines have in common. */ -}}

{{- define "food-vision.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "food-vision.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "food-vision.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* GKE mounts buckets through a sidecar, which this annotation asks for. */ -}}
{{- define "food-vision.fuseAnnotation" -}}
{{- if or (eq .Values.model.source "gcsFuse") (eq .Values.engineCache.type "gcsFuse") -}}
gke-gcsfuse/volumes: "true"
{{- end -}}
{{- end -}}

{{- /* Of the pods that run the model: the user's, and what the sidecar needs. */ -}}
{{- define "food-vision.podAnnotations" -}}
{{- $annotations := deepCopy .Values.podAnnotations }}
{{- range $name, $text := include "food-vision.fuseAnnotation" . | fromYaml }}
{{- $_ := set $annotations $name $text }}
{{- end }}
{{- with $annotations }}
{{- toYaml . }}
{{- end }}
{{- end -}}

{{- /* Where the pod may run. The taint of GPU nodes is tolerated by GKE itself; other clusters need it said. */ -}}
{{- define "food-vision.place" -}}
{{- $node := .Values.node }}
{{- $selector := deepCopy .Values.nodeSelector }}
{{- $tolerations := .Values.tolerations }}
{{- $spot := eq (include "food-vision.spot" .) "true" }}
{{- if eq $node.mode "accelerator" }}
{{- with $node.accelerator.type }}
{{- $_ := set $selector "cloud.google.com/gke-accelerator" . }}
{{- end }}
{{- with $node.accelerator.driverVersion }}
{{- $_ := set $selector "cloud.google.com/gke-gpu-driver-version" . }}
{{- end }}
{{- with $node.accelerator.sharing }}
{{- if .strategy }}
{{- $_ := set $selector "cloud.google.com/gke-gpu-sharing-strategy" .strategy }}
{{- $_ := set $selector "cloud.google.com/gke-max-shared-clients-per-gpu" (include "food-vision.text" .maxClients) }}
{{- end }}
{{- end }}
{{- else if eq $node.mode "computeClass" }}
{{- $_ := set $selector "cloud.google.com/compute-class" $node.computeClass.name }}
{{- else }}
{{- with $node.cpu.machineFamily }}
{{- $_ := set $selector "cloud.google.com/machine-family" . }}
{{- end }}
{{- end }}
{{- if and $spot (ne $node.mode "computeClass") }}
{{- $_ := set $selector "cloud.google.com/gke-spot" "true" }}
{{- $tolerations = append $tolerations (dict "key" "cloud.google.com/gke-spot" "operator" "Equal" "value" "true" "effect" "NoSchedule") }}
{{- end }}
{{- if include "food-vision.gpu" . }}
{{- $tolerations = append $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- if and (eq $node.mode "accelerator") (eq $node.accelerator.sharing.strategy "mps") }}
hostIPC: true  # MPS clients reach the node's control daemon through it; Autopilot refuses it
{{- end }}
{{- with $selector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* Of the service and of the Job that builds engines: theirs, a GPU, and room on the node. */ -}}
{{- define "food-vision.resources" -}}
{{- $limits := deepCopy .Values.resources.limits }}
{{- $requests := deepCopy (default dict .Values.resources.requests) }}
{{- if include "food-vision.gpu" . }}
{{- $_ := set $limits "nvidia.com/gpu" 1 }}
{{- end }}
{{- if not (get $limits "ephemeral-storage") }}
{{- $_ := set $limits "ephemeral-storage" (include "food-vision.storage" (list . true)) }}
{{- end }}
{{- if not (get $requests "ephemeral-storage") }}
{{- $_ := set $requests "ephemeral-storage" (get $limits "ephemeral-storage") }}
{{- end }}
{{- toYaml (dict "limits" $limits "requests" $requests) }}
{{- end -}}

{{- /* What a pod may write to its node at most, with the engines or without: (list $ true). The kubelet adds up what all
       containers write, emptyDirs and logs too, and evicts the pod above the sum of their limits; a limit of fetch alone
       would be the whole pod's. 256 MiB for logs: 5 files of 10 MiB each, of every container, are kept by default. */ -}}
{{- define "food-vision.storage" -}}
{{- $root := index . 0 -}}
{{- $sizes := list $root.Values.tmpSizeLimit "256Mi" -}}
{{- if eq $root.Values.model.source "download" -}}{{- $sizes = append $sizes $root.Values.model.download.sizeLimit -}}{{- end -}}
{{- if and (index . 1) (eq $root.Values.engineCache.type "emptyDir") -}}{{- $sizes = append $sizes $root.Values.engineCache.sizeLimit -}}{{- end -}}
{{- range $root.Values.extraVolumes -}}
{{- if and .emptyDir (ne (toString .emptyDir.medium) "Memory") -}}{{- $sizes = append $sizes (default "0" .emptyDir.sizeLimit) -}}{{- end -}}
{{- end -}}
{{- $bytes := 0.0 -}}
{{- range $sizes -}}{{- $bytes = addf $bytes (include "food-vision.bytes" . | float64) -}}{{- end -}}
{{- printf "%.0fMi" (divf $bytes 1048576.0 | ceil) -}}
{{- end -}}

{{- define "food-vision.modelVolume" -}}
{{- $model := .Values.model }}
{{- if eq $model.source "imageVolume" }}
- name: model
  image:
    reference: {{ $model.imageVolume.reference | quote }}
    pullPolicy: {{ $model.imageVolume.pullPolicy }}
{{- else if eq $model.source "gcsFuse" }}
- name: model
  csi:
    driver: gcsfuse.csi.storage.gke.io
    readOnly: true
    volumeAttributes:
      bucketName: {{ $model.gcsFuse.bucket | quote }}
      {{- $options := list "implicit-dirs" }}
      {{- with $model.gcsFuse.path }}{{ $options = append $options (printf "only-dir=%s" (trimAll "/" .)) }}{{ end }}
      {{- with $model.gcsFuse.mountOptions }}{{ $options = append $options . }}{{ end }}
      mountOptions: {{ join "," $options | quote }}
{{- else if eq $model.source "pvc" }}
- name: model
  persistentVolumeClaim:
    claimName: {{ $model.pvc.claimName | quote }}
    readOnly: true
{{- else if eq $model.source "download" }}
- name: model
  emptyDir:
    sizeLimit: {{ $model.download.sizeLimit }}
{{- end }}
{{- end -}}

{{- define "food-vision.modelMount" -}}
{{- if eq .Values.model.source "download" }}
- name: model
  mountPath: /models
  readOnly: true
{{- else if ne .Values.model.source "baked" }}
- name: model
  mountPath: /models/bundle
  readOnly: true
{{- end }}
{{- end -}}

{{- /* The user's init containers, then ours: it fetches the bundle and checks every file before anything else starts, and
       ends with a sentence when it cannot. */ -}}
{{- define "food-vision.initContainers" -}}
{{- if or .Values.initContainers (eq .Values.model.source "download") }}
initContainers:
  {{- with .Values.initContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with include "food-vision.fetch" . | trim }}{{ . | nindent 2 }}{{ end }}
{{- end }}
{{- end -}}

{{- define "food-vision.fetch" -}}
{{- if eq .Values.model.source "download" }}
- name: fetch
  image: {{ include "food-vision.serverImage" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [python, -m, app.tools.fetch]
  args:
    - {{ .Values.model.download.url | quote }}
    - --sha256={{ .Values.model.download.sha256 }}
    - --to=/models/bundle
  env:  # a proxy's, or a certificate's
    - name: HOME
      value: /tmp
    {{- with .Values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    {{- include "food-vision.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 250m, memory: 128Mi, ephemeral-storage: {{ include "food-vision.storage" (list . false) }}}
    limits: {memory: 256Mi, ephemeral-storage: {{ include "food-vision.storage" (list . false) }}}
  volumeMounts:
    - name: model
      mountPath: /models
    - name: tmp
      mountPath: /tmp
    {{- with .Values.extraVolumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}

{{- define "food-vision.tmpVolume" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
{{- end -}}

{{- /* Read-only for what serves, where a Job has built the engines: (list $ READ-ONLY). An engine is code that the server
       runs, and the server is open to others. */ -}}
{{- define "food-vision.enginesVolume" -}}
{{- $cache := (index . 0).Values.engineCache }}
{{- if eq $cache.type "emptyDir" }}
- name: engines
  emptyDir:
    sizeLimit: {{ $cache.sizeLimit }}
{{- else if eq $cache.type "pvc" }}
- name: engines
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-engines" (include "food-vision.fullname" (index . 0))) $cache.pvc.existingClaim | quote }}
{{- else if eq $cache.type "gcsFuse" }}
- name: engines
  csi:
    driver: gcsfuse.csi.storage.gke.io
    {{- if index . 1 }}
    readOnly: true
    {{- end }}
    volumeAttributes:
      bucketName: {{ $cache.gcsFuse.bucket | quote }}
      {{- $options := list "implicit-dirs" "uid=10001" "gid=10001" }}
      {{- with $cache.gcsFuse.path }}{{ $options = append $options (printf "only-dir=%s" (trimAll "/" .)) }}{{ end }}
      mountOptions: {{ join "," $options | quote }}
{{- end }}
{{- end -}}

{{- define "food-vision.enginesMount" -}}
{{- if ne (index . 0).Values.engineCache.type "none" }}
- name: engines
  mountPath: /engines
  {{- if index . 1 }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end -}}
