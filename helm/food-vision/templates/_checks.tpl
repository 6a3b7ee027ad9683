{{- /* What no schema can say: every mistake at once, each as a sentence that names the value and the remedy. */ -}}
{{- define "food-vision.checks" -}}
{{- $wrong := list -}}
{{- with include "food-vision.check.names" . | trim -}}{{- $wrong = append $wrong . -}}{{- end -}}
{{- if .Values.serving.enabled -}}
{{- range list "image" "modes" "node" "resources" "model" "settings" "extras" "engines" "storage" "grace" "scaling" "exposure" "test" "cluster" -}}
{{- $found := include (printf "food-vision.check.%s" .) $ | trim -}}
{{- if $found -}}{{- $wrong = concat $wrong (splitList "\n" $found) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.training.enabled -}}
{{- $found := include "food-vision.check.training" . | trim -}}
{{- if $found -}}{{- $wrong = concat $wrong (splitList "\n" $found) -}}{{- end -}}
{{- end -}}
{{- if not (or .Values.serving.enabled .Values.training.enabled) -}}
{{- $wrong = append $wrong "serving.enabled and training.enabled are both false: there is nothing to install." -}}
{{- end -}}
{{- $lines := list -}}
{{- range $wrong -}}{{- if trim . -}}{{- $lines = append $lines (printf "- %s" (trim .)) -}}{{- end -}}{{- end -}}
{{- if $lines -}}
{{- fail (printf "\n\nThese values cannot be installed:\n%s\n" (join "\n" $lines)) -}}
{{- end -}}
{{- end -}}

{{- /* The text of a value by its path: (dict "root" $ "path" "node.mode"). */ -}}
{{- define "food-vision.at" -}}
{{- $found := .root.Values -}}
{{- range splitList "." .path -}}{{- $found = get $found . -}}{{- end -}}
{{- toString $found -}}
{{- end -}}

{{- /* What a mode needs, and what belongs to another one. */ -}}
{{- define "food-vision.check.modes" -}}
{{- range list
  (list "node.mode" "computeClass" "node.computeClass.name" ", so name one (kubectl get computeclasses)")
  (list "model.source" "imageVolume" "model.imageVolume.reference" "")
  (list "model.source" "gcsFuse" "model.gcsFuse.bucket" "")
  (list "model.source" "pvc" "model.pvc.claimName" "")
  (list "model.source" "download" "model.download.url" "")
  (list "model.source" "download" "model.download.sha256" ", and nothing is served unchecked: set it to what `sha256sum manifest.json` prints in the bundle's folder")
  (list "engineCache.type" "gcsFuse" "engineCache.gcsFuse.bucket" "")
  (list "exposure.gateway.create" "false" "exposure.gateway.name" ", so name the Gateway that is there")
  (list "exposure.gateway.create" "false" "exposure.gateway.className" ", so say its class (kubectl get gateways -A), which says if its address is on the internet")
  (list "exposure.gateway.create" "false" "exposure.gateway.sectionName" ", so name its listener (kubectl get gateway NAME -o yaml): without a name the route would be on all of them")
}}
{{- $mode := index . 0 }}
{{- if and (eq (include "food-vision.at" (dict "root" $ "path" $mode)) (index . 1)) (not (include "food-vision.at" (dict "root" $ "path" (index . 2)))) }}
{{- if or (ne $mode "exposure.gateway.create") (eq $.Values.exposure.mode "gateway") }}
{{ index . 2 }} is missing: {{ $mode }} is {{ index . 1 }}{{ index . 3 }}.
{{- end }}
{{- end }}
{{- end }}
{{- range $section, $usual := (.Files.Get "chart.json" | fromJson).defaults }}
{{- $mode := ternary "source" "mode" (eq $section "model") }}
{{- $values := get $.Values $section }}
{{- $chosen := get $values $mode }}
{{- range $other, $defaults := $usual }}
{{- if and (kindIs "map" $defaults) (ne $other $chosen) }}
{{- range $key, $default := $defaults }}
{{- if ne (toJson $default) (toJson (get (get $values $other) $key)) }}
{{ $section }}.{{ $other }}.{{ $key }} is set, but {{ $section }}.{{ $mode }} is {{ $chosen }}: set {{ $section }}.{{ $mode }}={{ $other }}, or leave it out.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* A Service's name is the narrowest: Helm takes releases such as 2nd or my.demo. */ -}}
{{- define "food-vision.check.names" -}}
{{- $name := include "food-vision.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
the release is {{ .Release.Name }}, so its objects would be {{ $name }}, which no Service may be called: set fullnameOverride to small letters, digits and -, a letter first.
{{- end }}
{{- end -}}

{{- define "food-vision.check.image" -}}
{{- $own := or .Values.image.repository .Values.image.tag .Values.image.digest }}
{{- $released := or .Values.image.release.cpu .Values.image.release.gpu }}
{{- $back := ternary ", or leave image.tag and image.digest empty for the image of this release" "" (ne $released "") }}
{{- if and $released (not $own) }}
{{- if not (include "food-vision.releaseImage" .) }}
image.release.{{ ternary "gpu" "cpu" (eq (include "food-vision.gpu" .) "true") }} is empty, which node.mode {{ .Values.node.mode }} takes: set image.repository and image.digest, or another node.mode.
{{- else if eq (include "food-vision.provider" .) "tensorrt" }}
settings.provider is tensorrt, but this release has no image with TensorRT: set image.repository and image.digest to one of the target gpu-tensorrt (docs/image.md), or leave settings.provider empty.
{{- end }}
{{- else }}
{{- if not .Values.image.repository }}
image.repository is missing: set it to where the image is, as --set image.repository=europe-docker.pkg.dev/PROJECT/food-vision/food-vision{{ $back }}.
{{- end }}
{{- if not (or .Values.image.digest .Values.image.tag) }}
image.digest and image.tag are both missing: set image.digest=sha256:… (crane digest IMAGE, or gcloud artifacts docker images describe IMAGE), or at least image.tag.
{{- end }}
{{- end }}
{{- end -}}

{{- define "food-vision.check.node" -}}
{{- $node := .Values.node }}
{{- $provider := include "food-vision.provider" . }}
{{- if and (eq $node.mode "computeClass") .Values.nodeSelector }}
nodeSelector is set, but node.mode is computeClass, and a compute class chooses the nodes: leave it out.
{{- end }}
{{- range $label, $value := dict "gke-accelerator" "node.accelerator.type" "gke-gpu-driver-version" "node.accelerator.driverVersion" "gke-gpu-sharing-strategy" "node.accelerator.sharing.strategy" "gke-max-shared-clients-per-gpu" "node.accelerator.sharing.maxClients" "gke-spot" "node.accelerator.spot or node.cpu.spot" "compute-class" "node.computeClass.name" }}
{{- if hasKey $.Values.nodeSelector (printf "cloud.google.com/%s" $label) }}
nodeSelector names cloud.google.com/{{ $label }}, which follows from {{ $value }}: set that, and leave it out.
{{- end }}
{{- end }}
{{- if and (include "food-vision.gpu" .) (eq $provider "cpu") }}
settings.provider is cpu, but node.mode {{ $node.mode }} asks for a GPU, which would stand idle: leave settings.provider empty, or set node.mode=cpu.
{{- end }}
{{- if and (eq $node.mode "cpu") (ne $provider "cpu") }}
settings.provider is {{ $provider }}, but node.mode is cpu, where no GPU is: leave settings.provider empty, or set node.mode=accelerator.
{{- end }}
{{- with $node.accelerator.sharing }}
{{- if and .strategy (lt (int .maxClients) 2) }}
node.accelerator.sharing.strategy is {{ .strategy }}, but maxClients is {{ .maxClients }}: set it to the node pool's max-shared-clients-per-gpu, 2 or more.
{{- end }}
{{- if and (not .strategy) (int .maxClients) }}
node.accelerator.sharing.maxClients is {{ .maxClients }} without a strategy: set node.accelerator.sharing.strategy to time-sharing or mps.
{{- end }}
{{- end }}
{{- end -}}

{{- define "food-vision.check.resources" -}}
{{- include "food-vision.check.requests" (list "resources" .Values.resources) }}
{{- if hasKey (merge dict .Values.resources.limits (default dict .Values.resources.requests)) "nvidia.com/gpu" }}
resources names nvidia.com/gpu, which the chart sets itself, to the one GPU that a pod uses: leave it out.
{{- end }}
{{- end -}}

{{- /* Requests above their limits: (list "resources" RESOURCES). That of ephemeral-storage has a sentence of its own. */ -}}
{{- define "food-vision.check.requests" -}}
{{- $where := index . 0 }}
{{- $limits := omit (index . 1).limits "ephemeral-storage" }}
{{- range $name, $asked := (index . 1).requests }}
{{- $limit := get $limits $name }}
{{- if and $limit (gt (include "food-vision.amount" $asked | float64) (include "food-vision.amount" $limit | float64)) }}
{{ $where }}.requests.{{ $name }} is {{ include "food-vision.text" $asked }}, more than {{ $where }}.limits.{{ $name }}, which is {{ include "food-vision.text" $limit }}: set both.
{{- end }}
{{- end }}
{{- end -}}

{{- define "food-vision.check.model" -}}
{{- $model := .Values.model }}
{{- $kube := .Capabilities.KubeVersion }}
{{- if and (eq $model.source "imageVolume") (not $model.imageVolume.featureGate) (semverCompare "<1.35.0-0" $kube.Version) }}
model.source is imageVolume, but the cluster is Kubernetes {{ $kube.Version }}: image volumes are on from 1.35. Use another source, or set model.imageVolume.featureGate=true if the gate ImageVolume is on.
{{- end }}
{{- end -}}

{{- define "food-vision.check.engines" -}}
{{- $cache := .Values.engineCache }}
{{- $provider := include "food-vision.provider" . }}
{{- if and (ne $cache.type "none") (ne $provider "tensorrt") }}
engineCache.type is {{ $cache.type }}, but the provider is {{ $provider }}, which builds no engines: set settings.provider=tensorrt or engineCache.type=none.
{{- end }}
{{- if and (eq $cache.type "none") (eq $provider "tensorrt") }}
engineCache.type is none, but the provider is tensorrt, so each start, a container's restart too, would build every engine again, for minutes: set engineCache.type to gcsFuse or pvc with engineCache.prebuild.enabled=true, or at least to emptyDir.
{{- end }}
{{- include "food-vision.check.engineRights" . }}
{{- if $cache.prebuild.enabled }}
{{- if not (or (eq $cache.type "gcsFuse") (and (eq $cache.type "pvc") $cache.pvc.existingClaim)) }}
engineCache.prebuild.enabled needs a volume that is there before the install: set engineCache.type=pvc with engineCache.pvc.existingClaim, or engineCache.type=gcsFuse.
{{- end }}
{{- end }}
{{- if and (eq $cache.type "pvc") (not $cache.pvc.existingClaim) (ne $cache.pvc.accessMode "ReadWriteMany") }}
{{- if or (ne .Values.autoscaling.mode "none") (gt (int .Values.replicas) 1) }}
engineCache.pvc.accessMode is {{ $cache.pvc.accessMode }}, which one node at a time can mount, but there may be several pods: set it to ReadWriteMany with a storage class that can, or engineCache.type=gcsFuse, or replicas=1 and autoscaling.mode=none.
{{- else if int .Values.rollout.maxSurge }}
engineCache.pvc.accessMode is {{ $cache.pvc.accessMode }}, which one node at a time can mount, and during an upgrade rollout.maxSurge={{ .Values.rollout.maxSurge }} needs it on two: set rollout.maxSurge=0 and rollout.maxUnavailable=1.
{{- end }}
{{- end }}
{{- end -}}

{{- /* Who may write engines: neither who serves, where they are built ahead, nor is it where the model is. */ -}}
{{- define "food-vision.check.engineRights" -}}
{{- $model := .Values.model }}
{{- $cache := .Values.engineCache }}
{{- $bucket := $cache.gcsFuse.bucket }}
{{- $own := $cache.prebuild.serviceAccount }}
{{- if and $bucket (eq $cache.type "gcsFuse") }}
{{- $url := printf "^(gs://|https?://storage\\.googleapis\\.com/)%s(/|$)|^https?://%s\\.storage\\.googleapis\\.com(/|$)" (regexQuoteMeta $bucket) (regexQuoteMeta $bucket) }}
{{- $where := "" }}
{{- if and (eq $model.source "gcsFuse") (eq $model.gcsFuse.bucket $bucket) }}{{ $where = "model.gcsFuse.bucket" }}{{ end }}
{{- if and (eq $model.source "download") (regexMatch $url $model.download.url) }}{{ $where = "model.download.url" }}{{ end }}
{{- if $where }}
engineCache.gcsFuse.bucket is {{ $bucket }}, which {{ $where }} names too: whoever may write engines there may replace the model, so give engines a bucket of their own.
{{- end }}
{{- $google := default (get .Values.serviceAccount.annotations "iam.gke.io/gcp-service-account") .Values.serviceAccount.googleServiceAccount }}
{{- if and $cache.prebuild.enabled $google (eq (toString $google) $own.googleServiceAccount) }}
engineCache.prebuild.serviceAccount.googleServiceAccount is {{ $google }}, that of the pods that serve, which must not be able to write engines: name another, or leave it empty and grant IAM to the Kubernetes service account {{ include "food-vision.enginesServiceAccount" . }}.
{{- end }}
{{- end }}
{{- if and $cache.prebuild.enabled (or .Values.serviceAccount.create (eq $cache.type "gcsFuse")) (eq (include "food-vision.enginesServiceAccount" .) (include "food-vision.serviceAccount" .)) }}
engineCache.prebuild.serviceAccount.name is {{ default "empty" $own.name }}, so the Job would write engines as {{ include "food-vision.serviceAccount" . }}, the service account of the pods that serve, which must not be able to: name another.
{{- end }}
{{- if and $cache.prebuild.enabled .Values.serviceAccount.create }}
{{- $name := include "food-vision.enginesServiceAccount" . }}
{{- $there := lookup "v1" "ServiceAccount" .Release.Namespace $name }}
{{- if and $there (ne (dig "metadata" "labels" "app.kubernetes.io/instance" "" $there) .Release.Name) }}
engineCache.prebuild.serviceAccount.name is {{ $name }}, a service account that is there already and not of this release, and the Job's hook would make it anew: name another, or set serviceAccount.create=false and name both.
{{- end }}
{{- end }}
{{- if and (eq $cache.type "pvc") (eq $model.source "pvc") $model.pvc.claimName (eq $cache.pvc.existingClaim $model.pvc.claimName) }}
engineCache.pvc.existingClaim is {{ $model.pvc.claimName }}, which model.pvc.claimName names too: whoever may write engines there may replace the model, so give engines a claim of their own.
{{- end }}
{{- end -}}

{{- /* The pod's limit is one sum: a volume without a limit, or a limit below the sum, would evict it. */ -}}
{{- define "food-vision.check.storage" -}}
{{- range .Values.extraVolumes }}
{{- $folder := default dict .emptyDir }}
{{- if and (hasKey . "emptyDir") (not $folder.sizeLimit) (ne (toString $folder.medium) "Memory") }}
extraVolumes names {{ .name }}, an emptyDir without a sizeLimit: give it one, since the pod is evicted when all that it writes comes to more than its limits.
{{- end }}
{{- end }}
{{- if and (contains "file-cache" .Values.model.gcsFuse.mountOptions) (not (hasKey .Values.podAnnotations "gke-gcsfuse/ephemeral-storage-limit")) }}
model.gcsFuse.mountOptions asks for a file cache, which counts as the pod's storage: say how large it may be, as podAnnotations={gke-gcsfuse/ephemeral-storage-limit: 20Gi}; GKE gives the mounting container 5Gi otherwise.
{{- end }}
{{- $needed := include "food-vision.storage" (list . true) }}
{{- with get .Values.resources.limits "ephemeral-storage" }}
{{- if lt (include "food-vision.bytes" . | float64) (include "food-vision.bytes" $needed | float64) }}
resources.limits.ephemeral-storage is {{ include "food-vision.text" . }}, but the pod may write {{ $needed }} to its node (tmpSizeLimit, a downloaded bundle, an emptyDir of engines, extraVolumes and 256Mi of logs) and would be evicted: leave it out, or lower those.
{{- end }}
{{- end }}
{{- $limit := default $needed (get .Values.resources.limits "ephemeral-storage") }}
{{- with get (default dict .Values.resources.requests) "ephemeral-storage" }}
{{- if gt (include "food-vision.bytes" . | float64) (include "food-vision.bytes" $limit | float64) }}
resources.requests.ephemeral-storage is {{ include "food-vision.text" . }}, more than the limit {{ include "food-vision.text" $limit }}: leave it out, or set resources.limits.ephemeral-storage as well.
{{- end }}
{{- end }}
{{- end -}}

{{- define "food-vision.check.grace" -}}
{{- $needed := int (include "food-vision.neededGrace" .) }}
{{- $given := int (include "food-vision.grace" .) }}
{{- $spot := int .Values.termination.spotSeconds }}
{{- $t := .Values.termination }}
{{- $sum := printf "termination.preStopSeconds %s + settings.shutdownDelaySeconds %s + settings.drainSeconds %s + termination.marginSeconds %v" (include "food-vision.preStopSeconds" .) (include "food-vision.shutdownDelaySeconds" .) (include "food-vision.setting" (list . "drainSeconds")) $t.marginSeconds }}
{{- if .Values.tracing.endpoint }}{{ $sum = printf "%s + tracing.timeoutSeconds %v" $sum .Values.tracing.timeoutSeconds }}{{ end }}
{{- if lt $given $needed }}
termination.gracePeriodSeconds is {{ $given }}, but a shutdown may take {{ $needed }} s ({{ $sum }}): leave it 0, or lower those.
{{- end }}
{{- $leaves := int (include "food-vision.leaves" .) }}
{{- if and (eq .Values.exposure.mode "gateway") (not (include "food-vision.spot" .)) (lt $leaves 30) }}
termination.preStopSeconds {{ include "food-vision.preStopSeconds" . }} + settings.shutdownDelaySeconds {{ include "food-vision.shutdownDelaySeconds" . }} is {{ $leaves }} s, but a Gateway's load balancer may go on sending requests to a pod that ends for 30 s: leave both empty, which is 35 s, or let them be 30 or more together.
{{- end }}
{{- if include "food-vision.spot" . }}
{{- $leave := printf "but a Spot node leaves its pods %d s" $spot }}
{{- if and (gt $given $spot) (le $needed $spot) }}
termination.gracePeriodSeconds is {{ $given }}, {{ $leave }}: leave it 0, which is {{ $needed }} s, or raise termination.spotSeconds to what the node pool gives.
{{- else if gt $given $spot }}
the grace period is {{ $given }} s ({{ $sum }}), {{ $leave }}: lower those, as --set termination.preStopSeconds=0,settings.shutdownDelaySeconds=4,settings.drainSeconds={{ if .Values.tracing.endpoint }}4,tracing.timeoutSeconds=1{{ else }}5{{ end }}, or raise termination.spotSeconds to what the node pool gives.
{{- end }}
{{- end }}
{{- end -}}

{{- define "food-vision.check.scaling" -}}
{{- $a := .Values.autoscaling }}
{{- if gt (int $a.minReplicas) (int $a.maxReplicas) }}
autoscaling.minReplicas {{ $a.minReplicas }} is more than autoscaling.maxReplicas {{ $a.maxReplicas }}.
{{- end }}
{{- if and (eq $a.mode "autoscalingMetric") (semverCompare "<1.35.0-0" .Capabilities.KubeVersion.Version) }}
autoscaling.mode is autoscalingMetric, but the cluster is Kubernetes {{ .Capabilities.KubeVersion.Version }}: it needs GKE 1.35.1-gke.1396000 in the Rapid channel. Use podMonitoring or keda.
{{- end }}
{{- $managed := include "food-vision.scalesOnManaged" . }}
{{- if and $managed (ne (include "food-vision.operator" .) "gmp") }}
{{ $managed }}, but monitoring.operator is {{ .Values.monitoring.operator }}, so there is no metric to scale on: set monitoring.operator=gmp.
{{- end }}
{{- if eq $a.mode "keda" }}
{{- if eq (empty $a.keda.projectId) (empty $a.keda.serverAddress) }}
autoscaling.mode is keda: set one of autoscaling.keda.projectId (Managed Prometheus) and autoscaling.keda.serverAddress (another Prometheus).
{{- end }}
{{- end }}
{{- if and (eq $a.mode "cpu") (include "food-vision.gpu" .) }}
autoscaling.mode is cpu, but the pods run on GPUs, where the CPU says little about load: use podMonitoring, autoscalingMetric or keda.
{{- end }}
{{- if and (eq $a.mode "cpu") (not (or (default dict .Values.resources.requests).cpu .Values.resources.limits.cpu)) }}
autoscaling.mode is cpu, but resources.requests.cpu is missing, of which autoscaling.targetCPU is a share: set it.
{{- end }}
{{- if not (or (int .Values.rollout.maxSurge) (int .Values.rollout.maxUnavailable)) }}
rollout.maxSurge and rollout.maxUnavailable are both 0, so no upgrade could begin: set one of them to 1.
{{- end }}
{{- end -}}

{{- define "food-vision.check.exposure" -}}
{{- $e := .Values.exposure }}
{{- $g := $e.gateway }}
{{- $class := include "food-vision.gatewayClass" . }}
{{- $global := include "food-vision.globalClass" . }}
{{- if and (eq $e.mode "loadBalancer") $e.loadBalancer.internal (include "food-vision.notGke" .) (not .Values.service.annotations) }}
exposure.loadBalancer.internal is true, but GKE alone reads the annotation that says so, and the cluster has no API of GKE, so the address may be on the internet: name in service.annotations what makes it internal there, or set exposure.loadBalancer.internal=false, where keys are asked for.
{{- end }}
{{- if and $g.securityPolicy (ne $e.mode "none") (not (and (eq $e.mode "gateway") (hasPrefix "gke-" $class))) }}
exposure.gateway.securityPolicy is {{ $g.securityPolicy }}, which a Gateway of GKE's alone reads, but exposure.mode is {{ $e.mode }}{{ with $class }} and the class {{ . }}{{ end }}, so nothing would enforce it: leave it out, or take a class of GKE (kubectl get gatewayclasses).
{{- end }}
{{- if and (include "food-vision.public" .) (not (include "food-vision.keysSecret" .)) (not $e.allowWithoutKeys) }}
exposure.mode {{ $e.mode }} opens the service to the internet without API keys: set apiKeys.existingSecret or apiKeys.generate=true, or exposure.allowWithoutKeys=true if that is meant.
{{- end }}
{{- if eq $e.mode "gateway" }}
{{- if and (include "food-vision.public" .) $g.create (eq $g.tls.mode "none") (not $g.allowPlainHttp) }}
exposure.gateway.tls.mode is none, so photos and API keys would cross the internet unencrypted: set exposure.gateway.tls, or exposure.gateway.allowPlainHttp=true if that is meant.
{{- end }}
{{- if and (ne $g.tls.mode "none") (not $g.tls.name) }}
exposure.gateway.tls.name is missing: name the {{ $g.tls.mode }}.
{{- end }}
{{- if and (ne $g.tls.mode "none") (not $g.hostnames) }}
exposure.gateway.hostnames is empty: a certificate is for a host name, so name it.
{{- end }}
{{- if and $g.create $g.sectionName }}
exposure.gateway.sectionName is {{ $g.sectionName }}, but exposure.gateway.create is true, and the chart names its listeners itself: leave it out.
{{- end }}
{{- $prefix := include "food-vision.setting" (list . "rootPath") }}
{{- if and $prefix (not (hasPrefix "/" $prefix)) }}
settings.rootPath is {{ $prefix }}, but the route's paths begin with /: set it to /{{ $prefix }}.
{{- end }}
{{- if and $g.create $g.namespace (ne $g.namespace .Release.Namespace) }}
exposure.gateway.namespace is {{ $g.namespace }}, but exposure.gateway.create is true, and the chart makes the Gateway in {{ .Release.Namespace }}: leave it out.
{{- end }}
{{- if and (has $g.tls.mode (list "certificateMap" "certificates")) $class (not (hasPrefix "gke-" $class)) }}
exposure.gateway.tls.mode {{ $g.tls.mode }} does not work with {{ $class }}: classes that are not GKE's take secret.
{{- else if and (eq $g.tls.mode "certificateMap") (not $global) }}
exposure.gateway.tls.mode certificateMap does not work with {{ $class }}: regional classes take certificates or secret.
{{- else if and (eq $g.tls.mode "certificates") $global }}
exposure.gateway.tls.mode certificates does not work with {{ $class }}: global classes take certificateMap or secret.
{{- end }}
{{- if and .Values.networkPolicy.enabled $class (not (hasPrefix "gke-" $class)) (not .Values.networkPolicy.allowFrom) }}
networkPolicy.allowFrom is empty: the proxies of {{ $class }} must be let in, so name their pods or namespace, as [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: istio-system}}}].
{{- end }}
{{- if and .Values.networkPolicy.enabled (hasPrefix "gke-" $class) (not $global) (not .Values.networkPolicy.proxySubnets) }}
networkPolicy.proxySubnets is empty: the proxies of {{ $class }} connect from the region's proxy-only subnet, so name its CIDR (gcloud compute networks subnets list --filter=purpose=REGIONAL_MANAGED_PROXY).
{{- end }}
{{- end }}
{{- end -}}

{{- define "food-vision.check.test" -}}
{{- if and .Values.test.photo (not .Values.test.label) }}
test.label is missing: test.photo is set, so say which label it must get.
{{- end }}
{{- end -}}

{{- define "food-vision.check.training" -}}
{{- $t := .Values.training }}
{{- include "food-vision.check.variables" (list . "training.extraEnv" $t.extraEnv (list "HOME" "LD_LIBRARY_PATH" "NODE")) }}
{{- include "food-vision.check.requests" (list "training.resources" $t.resources) }}
{{- if and (eq $t.mode "jobset") (include "food-vision.lacks" (list . "jobset.x-k8s.io/v1alpha2")) }}
training.mode is jobset, but the cluster has no jobset.x-k8s.io/v1alpha2 (kubectl api-versions): install JobSet, or set training.mode=indexed.
{{- end }}
{{- if not $t.image.repository }}
training.image.repository is missing: training needs an image of the target training (make image-push TARGET=training, docs/image.md); the serving image has no training code.
{{- end }}
{{- if not (or $t.image.digest $t.image.tag) }}
training.image.digest and training.image.tag are both missing: set one.
{{- end }}
{{- if not $t.outputClaim }}
training.outputClaim is missing: name the claim where checkpoints go.
{{- end }}
{{- if and $t.dataClaim $t.dataBucket }}
training.dataClaim and training.dataBucket are both set: photos come from one of them.
{{- end }}
{{- if and (eq $t.mode "job") (gt (int $t.nodes) 1) }}
training.nodes is {{ $t.nodes }}, but training.mode job has one node: set training.mode to indexed or jobset.
{{- end }}
{{- if and (ne $t.mode "job") (lt (int $t.nodes) 2) }}
training.mode is {{ $t.mode }}, for several nodes, but training.nodes is {{ $t.nodes }}: set training.mode=job.
{{- end }}
{{- if and (not $t.accelerator.type) (gt (int $t.nodes) 1) }}
training.accelerator.type is empty, but training.nodes is {{ $t.nodes }}: training on CPUs takes one node.
{{- end }}
{{- end -}}
