{{/* Names, labels and images. Everything is named RELEASE-PART, so `tidegate-router` and so on. */}}

{{- define "tidegate.name" -}}
{{ .root.Release.Name }}-{{ .part }}
{{- end }}

{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "tidegate.metadata" -}}
name: {{ include "tidegate.name" . }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "tidegate.labels" . | nindent 2 }}
{{- end }}

{{/* ClusterRoles belong to no namespace: two releases must not share one. */}}
{{- define "tidegate.clusterMetadata" -}}
name: {{ .root.Release.Namespace }}-{{ include "tidegate.name" . }}
labels:
  {{- include "tidegate.labels" . | nindent 2 }}
{{- end }}

{{- define "tidegate.billingUrl" -}}
http://{{ .Release.Name }}-billing.{{ .Release.Namespace }}:8081
{{- end }}

{{- define "tidegate.routerUrl" -}}
http://{{ .Release.Name }}-router.{{ .Release.Namespace }}:8080
{{- end }}

{{- define "tidegate.secretsName" -}}
{{ .Values.secrets.existingSecret | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{- define "tidegate.adminName" -}}
{{ .Values.admin.existingSecret | default (printf "%s-admin" .Release.Name) }}
{{- end }}

{{/* The CRD Job and what it needs: before the rest, and gone when it has passed. */}}
{{- define "tidegate.crdHook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
