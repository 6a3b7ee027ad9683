{{- /* What the cluster has, and what follows from it. `helm template` knows no cluster: only what Helm was built with and
       what --api-versions names. */ -}}

{{- /* "true" on a cluster: each has the API by which others are added, and Helm's own list has not. */ -}}
{{- define "food-vision.onCluster" -}}
{{- if .Capabilities.APIVersions.Has "apiregistration.k8s.io/v1" -}}true{{- end -}}
{{- end -}}

{{- /* "true" where a version of an API is missing for certain: (list $ "keda.sh/v1alpha1"). */ -}}
{{- define "food-vision.lacks" -}}
{{- $root := index . 0 -}}
{{- if and (include "food-vision.onCluster" $root) (not ($root.Capabilities.APIVersions.Has (index . 1))) -}}true{{- end -}}
{{- end -}}

{{- /* "true" on a cluster that is not GKE's for certain: each of those has some API of its group. */ -}}
{{- define "food-vision.notGke" -}}
{{- $googles := "" -}}
{{- range .Capabilities.APIVersions -}}{{- if regexMatch "(^|\\.)gke\\.io/" . -}}{{- $googles = "true" -}}{{- end -}}{{- end -}}
{{- if and (include "food-vision.onCluster" .) (not $googles) -}}true{{- end -}}
{{- end -}}

{{- /* The value by which pods are scaled on what Managed Prometheus knows, else empty. */ -}}
{{- define "food-vision.scalesOnManaged" -}}
{{- $a := .Values.autoscaling -}}
{{- if eq $a.mode "podMonitoring" -}}autoscaling.mode is podMonitoring
{{- else if and (eq $a.mode "keda") $a.keda.projectId -}}autoscaling.keda.projectId is {{ $a.keda.projectId }}
{{- end -}}
{{- end -}}

{{- /* Who scrapes and alerts: gmp, prometheus or none. Scaling on Managed Prometheus' metrics asks for gmp. */ -}}
{{- define "food-vision.operator" -}}
{{- if ne .Values.monitoring.operator "auto" -}}{{ .Values.monitoring.operator }}
{{- else if or (include "food-vision.scalesOnManaged" .) (.Capabilities.APIVersions.Has "monitoring.googleapis.com/v1") -}}gmp
{{- else if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}prometheus
{{- else -}}none
{{- end -}}
{{- end -}}

{{- define "food-vision.gatewayName" -}}
{{- default (include "food-vision.fullname" .) .Values.exposure.gateway.name -}}
{{- end -}}

{{- /* Class of the Gateway; of one that is there already only what is said. */ -}}
{{- define "food-vision.gatewayClass" -}}
{{- $g := .Values.exposure.gateway -}}
{{- default (ternary "gke-l7-rilb" "" $g.create) $g.className -}}
{{- end -}}

{{- /* "true" for a class whose load balancer is global, without a proxy-only subnet. */ -}}
{{- define "food-vision.globalClass" -}}
{{- if regexMatch "^gke-l7-(global|gxlb)" (include "food-vision.gatewayClass" .) -}}true{{- end -}}
{{- end -}}

{{- /* "true" where the Gateway is GKE's, which alone reads HealthCheckPolicy and GCPBackendPolicy. */ -}}
{{- define "food-vision.gke" -}}
{{- if hasPrefix "gke-" (include "food-vision.gatewayClass" .) -}}
{{- if not (include "food-vision.lacks" (list . "networking.gke.io/v1")) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- /* "true" where the address may be on the internet: a class that is not known to be internal counts as such. */ -}}
{{- define "food-vision.public" -}}
{{- $exposure := .Values.exposure -}}
{{- if eq $exposure.mode "loadBalancer" -}}{{ if not $exposure.loadBalancer.internal }}true{{ end }}
{{- else if eq $exposure.mode "gateway" -}}{{ if not (regexMatch "^gke-l7-(rilb|cross-regional-internal-managed)(-mc)?$" (include "food-vision.gatewayClass" .)) }}true{{ end }}
{{- end -}}
{{- end -}}

{{- /* What is asked for by name and the cluster has not, each with the remedy. */ -}}
{{- define "food-vision.check.cluster" -}}
{{- $a := .Values.autoscaling.mode }}
{{- $gateway := eq .Values.exposure.mode "gateway" }}
{{- $class := include "food-vision.gatewayClass" . }}
{{- $operator := .Values.monitoring.operator }}
{{- $managed := include "food-vision.scalesOnManaged" . }}
{{- range list
  (list (eq $a "autoscalingMetric") "autoscaling.gke.io/v1beta1" "autoscaling.mode is autoscalingMetric" "use podMonitoring or keda")
  (list (ne $managed "") "monitoring.googleapis.com/v1" $managed "switch Managed Service for Prometheus on, or use keda with autoscaling.keda.serverAddress")
  (list (eq $a "keda") "keda.sh/v1alpha1" "autoscaling.mode is keda" "install KEDA, or use another mode")
  (list $gateway "gateway.networking.k8s.io/v1" "exposure.mode is gateway" "install the Gateway API (on GKE: gcloud container clusters update CLUSTER --gateway-api=standard), or use exposure.mode=loadBalancer")
  (list (and $gateway (hasPrefix "gke-" $class)) "networking.gke.io/v1" (printf "the Gateway's class is %s, one of GKE" $class) "set exposure.gateway.className to one that is there (kubectl get gatewayclasses)")
  (list (eq $operator "gmp") "monitoring.googleapis.com/v1" "monitoring.operator is gmp" "switch Managed Service for Prometheus on, or set monitoring.operator=auto")
  (list (eq $operator "prometheus") "monitoring.coreos.com/v1" "monitoring.operator is prometheus" "install the Prometheus operator, or set monitoring.operator=auto")
}}
{{- if and (index . 0) (include "food-vision.lacks" (list $ (index . 1))) }}
{{ index . 2 }}, but the cluster has no {{ index . 1 }} (kubectl api-versions): {{ index . 3 }}.
{{- end }}
{{- end }}
{{- end -}}
