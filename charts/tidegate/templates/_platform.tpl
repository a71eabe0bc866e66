{{/* platform.yaml, with every field of every profile filled in: the operator guesses nothing. */}}

{{- define "tidegate.engine" -}}
image: {{ .image | quote }}
pullPolicy: {{ .engine.pullPolicy }}
pullSecrets: {{ toJson .engine.pullSecrets }}
versions: {{ toJson .engine.versions }}
fetchEnv: {{ toJson .engine.fetchEnv }}
fetchImage: {{ .engine.fetchImage | quote }}
{{- end }}

{{/* `cpu: 2` is a number to YAML, and a quantity to Kubernetes; a large one would print as 2e+09. */}}
{{- define "tidegate.quantities" -}}
{{- $made := dict -}}
{{- range $name, $amount := . -}}
{{- $whole := and (kindIs "float64" $amount) (eq (floor $amount) $amount) -}}
{{- $_ := set $made $name (ternary (int64 $amount | toString) (toString $amount) $whole) -}}
{{- end -}}
{{ toJson $made }}
{{- end }}

{{- define "tidegate.profile" -}}
{{- $gpus := int (.gpus | default 0) -}}
image: {{ .image | default "" | quote }}
gpus: {{ $gpus }}
gpuResource: {{ .gpuResource | default "" | quote }}
device: {{ .device | default (ternary "gpu" "cpu" (gt $gpus 0)) }}
requests: {{ include "tidegate.quantities" .requests }}
limits: {{ include "tidegate.quantities" .limits }}
sharedMemory: {{ .sharedMemory | default "1Gi" | quote }}
nodeSelector: {{ toJson (.nodeSelector | default dict) }}
tolerations: {{ toJson (.tolerations | default list) }}
runtimeClassName: {{ .runtimeClassName | default "" | quote }}
env: {{ toJson (.env | default dict) }}
supplementalGroups: {{ toJson (.supplementalGroups | default list) }}
elastic: {{ .elastic | default false }}
{{- end }}

{{- define "tidegate.partSelector" -}}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "tidegate.selector" . | nindent 2 }}
{{- end }}

{{- define "tidegate.platform" -}}
engines:
  vllm:
    {{- include "tidegate.engine" (dict "engine" .Values.engines.vllm "image" .Values.engines.vllm.image) | nindent 4 }}
  sim:
    {{- include "tidegate.engine" (dict "engine" .Values.engines.sim "image" (.Values.engines.sim.image | default .Values.image)) | nindent 4 }}
profiles:
  {{- range $name, $profile := .Values.profiles }}
  {{ $name | quote }}:
    {{- include "tidegate.profile" $profile | nindent 4 }}
  {{- end }}
policy:
  {{- range $field := list "public" "prices" "images" "args" "env" }}
  {{ $field }}: {{ toJson (get $.Values.policy $field) }}
  {{- end }}
routerSelector:
  {{- include "tidegate.partSelector" (dict "root" . "part" "router") | nindent 2 }}
operatorSelector:
  {{- include "tidegate.partSelector" (dict "root" . "part" "operator") | nindent 2 }}
capacity:
  giveWay: {{ .Values.capacity.giveWay }}
  minimumIdleSeconds: {{ int .Values.capacity.minimumIdleSeconds }}
cache:
  storageClass: {{ .Values.cache.storageClass | quote }}
  accessMode: {{ .Values.cache.accessMode }}
{{- end }}
