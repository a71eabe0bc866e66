{{/*
Secrets are made once. What is in the cluster is kept; where nothing is, a value is made once per
rendering, so that the Secret and the checksum on the pods that read it agree.
*/}}

{{- define "tidegate.made" -}}
{{- if not (hasKey .Release "tidegateMade") -}}
{{- $shared := dict "internal-token" (randAlphaNum 48) "key-pepper" (printf "1:%s" (randAlphaNum 48)) "guard-key" (randAlphaNum 48) -}}
{{- $_ := set .Release "tidegateMade" (dict "secrets" $shared "admin" (dict "token" (randAlphaNum 48))) -}}
{{- end -}}
{{- end }}

{{/* The data of a Secret of ours, base64, as JSON: name, made (secrets or admin). */}}
{{- define "tidegate.secretData" -}}
{{- include "tidegate.made" .root -}}
{{- $there := (lookup "v1" "Secret" .root.Release.Namespace .name).data | default dict -}}
{{- $data := dict -}}
{{- range $key, $value := get .root.Release.tidegateMade .made -}}
{{- $_ := set $data $key (get $there $key | default ($value | b64enc)) -}}
{{- end -}}
{{ toJson $data }}
{{- end }}

{{/*
Changes when the Secret does, so that pods are replaced. Of a Secret that somebody else made only
the version is used: a hash of a weak token would help to guess it.
*/}}
{{- define "tidegate.secretVersion" -}}
{{- if .existing -}}
{{- $there := lookup "v1" "Secret" .root.Release.Namespace .existing -}}
{{ dig "metadata" "resourceVersion" "unknown" ($there | default dict) }}
{{- else -}}
{{ include "tidegate.secretData" . | sha256sum }}
{{- end -}}
{{- end }}

{{- define "tidegate.checksums" -}}
checksum/secrets: {{ include "tidegate.secretVersion" (dict "root" . "existing" .Values.secrets.existingSecret "made" "secrets" "name" (include "tidegate.secretsName" .)) | quote }}
{{- end }}

{{/* A Secret's keys as files: volume, name, keys. */}}
{{- define "tidegate.secretVolume" -}}
- name: {{ .volume }}
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
    items:
      {{- range .keys }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
