{{- /* Where the pods must reach: nothing at all, unless they mount or fetch something or send traces. */ -}}
{{- define "food-vision.egress" -}}
{{- $fetches := or (include "food-vision.fuseAnnotation" .) (eq .Values.model.source "download") }}
{{- if or $fetches .Values.tracing.endpoint }}
- ports:  # names
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end }}
{{- if or (include "food-vision.fuseAnnotation" .) (and $fetches (hasPrefix "gs://" .Values.model.download.url)) }}
- to:  # the metadata server, for tokens of Workload Identity: not for a fetch without one, since the server may reach it too
    - ipBlock: {cidr: 169.254.169.252/32}
    - ipBlock: {cidr: 169.254.169.254/32}
  ports:
    - {port: 80, protocol: TCP}
    - {port: 987, protocol: TCP}
    - {port: 988, protocol: TCP}
{{- end }}
{{- if $fetches }}
- ports:  # Cloud Storage, or where the bundle is
    {{- $url := urlParse .Values.model.download.url }}
    {{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
    - {port: {{ default (ternary "80" "443" (eq $url.scheme "http")) $port }}, protocol: TCP}
{{- end }}
{{- if or $fetches .Values.tracing.endpoint }}
{{- range .Values.extraEnv }}
{{- if and (has (upper .name) (list "HTTP_PROXY" "HTTPS_PROXY" "ALL_PROXY")) .value }}
- ports:  # the proxy of {{ .name }}
    - {port: {{ regexFind "[0-9]+" (regexFind ":[0-9]+/?$" .value) | default (ternary "443" "80" (hasPrefix "https:" .value)) }}, protocol: TCP}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.tracing.endpoint }}
- ports:  # spans
    {{- $url := urlParse .Values.tracing.endpoint }}
    {{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
    - {port: {{ default (ternary "80" "443" (eq $url.scheme "http")) $port }}, protocol: TCP}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}
