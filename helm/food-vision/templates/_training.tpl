{{- define "food-vision.trainingName" -}}
{{ include "food-vision.fullname" . | trunc 24 | trimSuffix "-" }}-train-{{ .Values.training.run }}
{{- end -}}

{{- /* The first node's host name, where the others meet it. */ -}}
{{- define "food-vision.trainingHead" -}}
{{- $name := include "food-vision.trainingName" . -}}
{{- if eq .Values.training.mode "jobset" -}}{{ $name }}-node-0-0.{{ $name }}{{- else -}}{{ $name }}-0.{{ $name }}{{- end -}}
{{- end -}}

{{- /* The spec of the Job: of all nodes, each knowing its number. */ -}}
{{- define "food-vision.trainingJob" -}}
{{- $t := .Values.training }}
{{- $several := ne $t.mode "job" }}
{{- $gpus := ternary (int $t.accelerator.count) 0 (ne $t.accelerator.type "") }}
{{- if $several }}
completionMode: Indexed
completions: {{ $t.nodes }}
parallelism: {{ $t.nodes }}
{{- end }}
{{- if eq $t.mode "jobset" }}
backoffLimit: 0  # one node's failure restarts the set: a run needs all of them
{{- else }}
backoffLimit: {{ $t.retries }}
{{- end }}
activeDeadlineSeconds: {{ include "food-vision.text" $t.timeoutSeconds }}
template:
  metadata:
    labels:
      {{- include "food-vision.labelsOf" (dict "root" . "component" "training") | nindent 6 }}
    {{- if $t.dataBucket }}
    annotations:
      gke-gcsfuse/volumes: "true"
    {{- end }}
  spec:
    restartPolicy: {{ ternary "Never" "OnFailure" (eq $t.mode "jobset") }}
    serviceAccountName: {{ include "food-vision.serviceAccount" . | quote }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    {{- if eq $t.mode "indexed" }}
    subdomain: {{ include "food-vision.trainingName" . }}
    {{- end }}
    securityContext:
      {{- include "food-vision.podSecurity" . | nindent 6 }}
    {{- with include "food-vision.pullSecrets" . | trim }}{{ . | nindent 4 }}{{ end }}
    {{- if $gpus }}
    nodeSelector:
      cloud.google.com/gke-accelerator: {{ $t.accelerator.type | quote }}
      {{- if $t.accelerator.spot }}
      cloud.google.com/gke-spot: "true"
      {{- end }}
    tolerations:
      - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
      {{- if $t.accelerator.spot }}
      - {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}
      {{- end }}
    {{- end }}
    containers:
      - name: training
        image: {{ include "food-vision.image" $t.image }}
        command: [accelerate, launch]
        args:
          {{- if $gpus }}
          {{- if gt (mul (int $t.nodes) $gpus) 1 }}
          - --multi_gpu
          {{- end }}
          {{- else }}
          - --cpu
          {{- end }}
          - --num_machines={{ $t.nodes }}
          - --num_processes={{ mul (int $t.nodes) (max $gpus 1) }}
          {{- if $several }}
          - --machine_rank=$(NODE)
          - --main_process_ip={{ include "food-vision.trainingHead" . }}
          - --main_process_port=29500
          {{- end }}
          - --mixed_precision=no  # the recipe decides
          - --dynamo_backend=no
          - -m
          - training
          - {{ printf "--recipe=%s" $t.recipe | quote }}
          - --out=/out/{{ $t.run }}
          {{- range $t.set }}
          - {{ printf "--set=%s" . | quote }}
          {{- end }}
        env:
          {{- if $several }}
          - name: NODE
            valueFrom:
              fieldRef:
                fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
          {{- end }}
          - {name: HOME, value: /tmp}
          {{- if $gpus }}
          - {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}
          {{- end }}
          {{- with $t.extraEnv }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        {{- if $several }}
        ports:
          - {name: rendezvous, containerPort: 29500, protocol: TCP}
        {{- end }}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext:
          {{- include "food-vision.containerSecurity" . | nindent 10 }}
        {{- $resources := deepCopy $t.resources }}
        {{- if $gpus }}
        {{- $_ := set $resources.limits "nvidia.com/gpu" $gpus }}
        {{- end }}
        resources:
          {{- toYaml $resources | nindent 10 }}
        volumeMounts:
          - {name: out, mountPath: /out}
          - {name: tmp, mountPath: /tmp}
          - {name: shm, mountPath: /dev/shm}
          {{- if or $t.dataClaim $t.dataBucket }}
          - {name: photos, mountPath: /photos, readOnly: true}
          {{- end }}
    volumes:
      - name: out
        persistentVolumeClaim:
          claimName: {{ $t.outputClaim | quote }}
      - name: tmp
        emptyDir: {}
      - name: shm
        emptyDir:
          medium: Memory
          sizeLimit: {{ $t.sharedMemory }}
      {{- if $t.dataClaim }}
      - name: photos
        persistentVolumeClaim:
          claimName: {{ $t.dataClaim | quote }}
          readOnly: true
      {{- else if $t.dataBucket }}
      - name: photos
        csi:
          driver: gcsfuse.csi.storage.gke.io
          readOnly: true
          volumeAttributes:
            bucketName: {{ $t.dataBucket | quote }}
            mountOptions: implicit-dirs
      {{- end }}
{{- end -}}
