{{/* The chart's name, as labels show it. */}}
{{- define "geth-peering.name" -}}
{{- default .Chart.Name .Values.nameOverride -}}
{{- end -}}

{{/*
What the names of all objects begin with. At most 54 characters, because a Service's name ends after 63 and ours
goes on with "-injector".
*/}}
{{- define "geth-peering.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "geth-peering.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Name of everything that belongs to the injector. */}}
{{- define "geth-peering.injector" -}}
{{- include "geth-peering.fullname" . }}-injector
{{- end -}}

{{- /* The account that the injector runs under. */ -}}
{{- define "geth-peering.serviceAccount" -}}
{{- default (include "geth-peering.injector" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Name of the role that sidecars get in the namespaces of Geth pods. */}}
{{- define "geth-peering.sidecar" -}}
{{- include "geth-peering.fullname" . }}-sidecar
{{- end -}}

{{/* Where `helm test` has a pod made, for show. */}}
{{- define "geth-peering.testNamespace" -}}
{{- default (first (append .Values.rbac.namespaces "default")) .Values.test.namespace -}}
{{- end -}}

{{/* Name of the Secret with the CA of the webhooks. The injector makes it, and it goes when its Deployment goes. */}}
{{- define "geth-peering.ca" -}}
{{- include "geth-peering.fullname" . }}-ca
{{- end -}}

{{/* Name of the Secret with the webhooks' certificate, if the injector does not make it. */}}
{{- define "geth-peering.certificate" -}}
{{- if eq .Values.tls.mode "existing" -}}
{{- .Values.tls.existing.secretName -}}
{{- else -}}
{{- include "geth-peering.fullname" . }}-certificate
{{- end -}}
{{- end -}}

{{/* Namespaces in which nothing is injected or made, as a YAML list. */}}
{{- define "geth-peering.excludedNamespaces" -}}
{{- concat (list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace) .Values.webhook.excludedNamespaces | uniq | toYaml -}}
{{- end -}}

{{/*
Namespaces that no webhook ever sees: the system's, and the one with the injector, which could not start if it had to
ask itself. The last two are what AKS adds to every webhook; where they are there already, it has nothing to change.
*/}}
{{- define "geth-peering.includedNamespaces" -}}
{{- with .Values.rbac.namespaces }}
- key: kubernetes.io/metadata.name
  operator: In
  values:
    {{- toYaml . | nindent 4 }}
{{- end }}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    {{- include "geth-peering.excludedNamespaces" . | nindent 4 }}
- key: control-plane
  operator: NotIn
  values: ["true"]
- key: kubernetes.azure.com/managedby
  operator: NotIn
  values: [aks]
{{- end -}}

{{/* Labels by which the injector's pods are found. They never change, because a Deployment's selector cannot. */}}
{{- define "geth-peering.selectorLabels" -}}
app.kubernetes.io/name: {{ include "geth-peering.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: injector
{{- end -}}

{{/* Labels of every object. Takes {root, component}, and labels that only this object gets. */}}
{{- define "geth-peering.labels" -}}
{{- $root := .root -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "geth-peering.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- with merge (dict) (default dict .labels) $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/*
Labels and annotations of every object. Takes {root, component}, and labels and annotations that only this object gets.
*/}}
{{- define "geth-peering.metadata" -}}
labels:
  {{- include "geth-peering.labels" . | nindent 2 }}
{{- with merge (dict) (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image as a node pulls it. Takes {root, image}. With tag and digest, the digest decides and the tag tells people. */}}
{{- define "geth-peering.image" -}}
{{- $tag := .image.tag -}}
{{- if not (or $tag .image.digest) -}}
{{- $tag = .root.Chart.AppVersion -}}
{{- end -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.global.imageRegistry -}}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- $repository -}}
{{- with $tag }}:{{ . }}{{ end -}}
{{- with .image.digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* The bytes of a quantity such as 64Mi. */}}
{{- define "geth-peering.bytes" -}}
{{- $unit := regexFind "[KMG]i$" . -}}
{{- mul (trimSuffix $unit . | int64) (get (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824) $unit | int64) -}}
{{- end -}}

{{/*
What the injector may do in every namespace, or in one of rbac.namespaces. Creating cannot be limited to a name, because
RBAC does not see the name of an object that is being created; everything else is.
*/}}
{{- define "geth-peering.injectorRules" -}}
# The sidecars' account, and what it is bound to.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [create]
- apiGroups: [""]
  resources: [serviceaccounts]
  resourceNames: [geth-peering]
  verbs: [list, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  verbs: [create]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [rolebindings]
  resourceNames: [geth-peering]
  verbs: [get, list, watch, patch, delete]
# It may bind this one role without holding its rights, and no other.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [{{ ternary "roles" "clusterroles" (gt (len .Values.rbac.namespaces) 0) }}]
  resourceNames: [{{ include "geth-peering.sidecar" . }}]
  verbs: [bind]
{{- if .Values.audit.enabled }}
# It looks for pods that lack their sidecar. RBAC knows no right to metadata alone.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- end }}
# It tells a pod's owner why it was or was not injected; of a Deployment's pod, the Deployment behind its ReplicaSet.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [get]
{{- end -}}

{{/* What a sidecar may do in the namespace of its pod, and in that of the registry that its pod names. */}}
{{- define "geth-peering.sidecarRules" -}}
# The registry.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames:
    {{- toYaml .Values.registry.configMapNames | nindent 4 }}
  verbs: [get, list, watch, patch]
# Whether the pod of an entry still exists.
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
# What a person must act on, said on the sidecar's own pod.
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* Refuses what the schema cannot: values that are right alone and impossible together. */}}
{{- define "geth-peering.validate" -}}
{{- $v := .Values -}}
{{- if eq (int $v.webhook.port) (int $v.httpPort) -}}
{{- fail (printf "webhook.port and httpPort are both %d: one program cannot listen twice on one port, so give them different ones." (int $v.httpPort)) -}}
{{- end -}}
{{- if and $v.hostNetwork (has 10250 (list (int $v.webhook.port) (int $v.httpPort))) -}}
{{- fail "With hostNetwork, webhook.port and httpPort must not be 10250: the kubelet of every node listens there." -}}
{{- end -}}
{{- if and $v.hostNetwork $v.networkPolicy.enabled -}}
{{- fail "networkPolicy.enabled does nothing with hostNetwork: no NetworkPolicy holds for pods in their nodes' network. Set one of them to false." -}}
{{- end -}}
{{- if and $v.guard.enabled (semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "guard.enabled needs Kubernetes 1.30, which made ValidatingAdmissionPolicies stable; this is %s." .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- if and (has "Deny" $v.guard.actions) (has "Warn" $v.guard.actions) -}}
{{- fail "guard.actions has both Deny and Warn: Kubernetes refuses that, because who is denied is told anyway. Take one of them out." -}}
{{- end -}}
{{- $test := include "geth-peering.testNamespace" . -}}
{{- range $v.rbac.namespaces -}}
{{- if has . (include "geth-peering.excludedNamespaces" $ | fromYamlArray) -}}
{{- fail (printf "rbac.namespaces has %s, where no pod is injected: it is the system's, the release's, or in webhook.excludedNamespaces. Take it out." .) -}}
{{- end -}}
{{- end -}}
{{- if and $v.rbac.namespaces $v.test.enabled (not (has $test $v.rbac.namespaces)) -}}
{{- fail (printf "test.namespace is %s, which is not in rbac.namespaces, so the test could only fail: name one of those, or set test.enabled=false." $test) -}}
{{- end -}}
{{- range $v.registry.namespaces -}}
{{- if and $v.rbac.namespaces (not (has . $v.rbac.namespaces)) -}}
{{- fail (printf "registry.namespaces has %s, which is not in rbac.namespaces: nobody could be given rights there. Add it, or take it out." .) -}}
{{- end -}}
{{- end -}}
{{- if and $v.test.enabled (has $test (include "geth-peering.excludedNamespaces" . | fromYamlArray)) -}}
{{- fail (printf "test.namespace is %s, where no pod is injected, so the test could only fail: name another namespace, or set test.enabled=false." $test) -}}
{{- end -}}
{{- if and (not $v.serviceAccount.create) (not $v.serviceAccount.name) -}}
{{- fail "serviceAccount.create is false and serviceAccount.name is empty: name the account that the injector runs under." -}}
{{- end -}}
{{- if and (not $v.serviceAccount.create) $v.serviceAccount.annotations -}}
{{- fail "serviceAccount.annotations has no effect with serviceAccount.create=false: annotate that account yourself, or take them out." -}}
{{- end -}}
{{- if and (not $v.rbac.create) $v.test.enabled -}}
{{- fail "helm test needs rights of its own, which rbac.create=false leaves to somebody else: set test.enabled=false." -}}
{{- end -}}
{{- if and (eq $v.dnsPolicy "None") (not $v.dnsConfig.nameservers) -}}
{{- fail "dnsPolicy None needs dnsConfig.nameservers: Kubernetes would refuse the injector's pods." -}}
{{- end -}}
{{- range $v.extraEnv -}}
{{- if hasPrefix "INJECTOR_" .name -}}
{{- fail (printf "extraEnv must not have %s: every setting of the injector is a value of this chart, which takes precedence." .name) -}}
{{- end -}}
{{- end -}}
{{- $volumes := list -}}
{{- range $v.extraVolumes -}}
{{- $volumes = append $volumes .name -}}
{{- end -}}
{{- range $v.extraVolumeMounts -}}
{{- if not (has .name $volumes) -}}
{{- fail (printf "extraVolumeMounts has %s, which is not in extraVolumes: Kubernetes would refuse the injector's pods." .name) -}}
{{- end -}}
{{- end -}}
{{- range $value, $annotations := dict "commonAnnotations" $v.commonAnnotations "podAnnotations" $v.podAnnotations "deploymentAnnotations" $v.deploymentAnnotations -}}
{{- range $key, $_ := $annotations -}}
{{- if or (eq $key "geth-peering") (hasPrefix "geth-peering/" $key) -}}
{{- fail (printf "%s must not have %s: that annotation is for Geth pods and their workloads, not for the injector." $value $key) -}}
{{- end -}}
{{- if or (hasPrefix "helm.sh/" $key) (hasPrefix "meta.helm.sh/" $key) -}}
{{- fail (printf "%s must not have %s: Helm itself acts on annotations that begin with helm.sh/ or meta.helm.sh/." $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.tls.mode "existing") (not $v.tls.existing.secretName) -}}
{{- fail "tls.mode is existing and tls.existing.secretName is empty: name the Secret that holds the certificate." -}}
{{- end -}}
{{- if and (ne $v.tls.mode "existing") (or $v.tls.existing.secretName $v.tls.existing.caBundle) -}}
{{- fail (printf "tls.existing has no effect with tls.mode=%s: set tls.mode=existing, or take it out." $v.tls.mode) -}}
{{- end -}}
{{- if and (ne $v.tls.mode "certManager") $v.tls.certManager.issuerRef -}}
{{- fail (printf "tls.certManager has no effect with tls.mode=%s: set tls.mode=certManager, or take it out." $v.tls.mode) -}}
{{- end -}}
{{- $memory := $v.sidecar.resources -}}
{{- if gt (include "geth-peering.bytes" $memory.memoryRequest | int64) (include "geth-peering.bytes" $memory.memoryLimit | int64) -}}
{{- fail (printf "sidecar.resources.memoryRequest (%s) is more than sidecar.resources.memoryLimit (%s): Kubernetes would refuse every pod with this sidecar." $memory.memoryRequest $memory.memoryLimit) -}}
{{- end -}}
{{- range $value, $labels := dict "commonLabels" $v.commonLabels "podLabels" $v.podLabels "podMonitor.labels" $v.podMonitor.labels "prometheusRule.labels" $v.prometheusRule.labels "dashboards.labels" $v.dashboards.labels -}}
{{- range $key, $_ := $labels -}}
{{- if or (eq $key "geth-peering") (hasPrefix "geth-peering/" $key) -}}
{{- fail (printf "%s must not have %s: that label is for Geth pods and would mark the injector as one." $value $key) -}}
{{- end -}}
{{- if or (hasPrefix "app.kubernetes.io/" $key) (hasPrefix "helm.sh/" $key) -}}
{{- fail (printf "%s must not have %s: labels that begin with app.kubernetes.io/ or helm.sh/ are set by the chart, which finds its pods by them." $value $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
