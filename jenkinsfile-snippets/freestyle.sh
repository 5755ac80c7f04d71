# Freestyle job: a shell step that reports the build.
#
# Where to put it:
# - With the PostBuildScript plugin (2.1 or newer): "Post build task", any result. The plugin provides the result.
# - Without a plugin: "Execute shell" as the FIRST build step, because no step runs after a failed one. The report has
#   no result. The agent holds it until it has seen the result of the build.
#
# Needs: curl and awk. Under "Build Environment" bind a "Secret text" with the token of the intake to the variable
# HIVEL_TOKEN. Change the two lines below, or set the variables in Jenkins.
set +x
: "${HIVEL_AGENT_URL:=http://hivel-agent.example.com:9470}"
: "${ENVIRONMENT:=production}"
export ENVIRONMENT

# GIT_URL, GIT_BRANCH and GIT_COMMIT are the job's own, because a freestyle job loads no shared library.
# awk reads the variables itself and escapes every byte for JSON: no value can break the JSON or run a command.
report=$(LC_ALL=C awk '
    function json(text,    at, byte, out) {
        for (at = 1; at <= length(text); at++) {
            byte = substr(text, at, 1)
            out = out (byte in escaped ? escaped[byte] : byte)
        }
        return "\"" out "\""
    }
    function field(name, variable) {
        if (ENVIRON[variable] != "") printf ",\"%s\":%s", name, json(ENVIRON[variable])
    }
    BEGIN {
        for (code = 1; code < 32; code++) escaped[sprintf("%c", code)] = sprintf("\\u%04x", code)
        escaped["\""] = "\\\""; escaped["\\"] = "\\\\"
        printf "{\"provider\":\"jenkins\""
        field("job", "JOB_NAME"); field("build_number", "BUILD_NUMBER"); field("build_url", "BUILD_URL")
        field("status", "BUILD_RESULT"); field("environment", "ENVIRONMENT")
        field("repo_url", "GIT_URL"); field("branch", "GIT_BRANCH"); field("commit_hash", "GIT_COMMIT")
        printf "}"
    }') || :

answer=$(curl --silent --show-error --connect-timeout 2 --max-time 5 --config - \
    --header 'Content-Type: application/json' --data-binary "$report" \
    --write-out ' HTTP %{http_code}' --url "$HIVEL_AGENT_URL/v1/events" 2>&1 <<END
header = "Authorization: Bearer $HIVEL_TOKEN"
END
) || code=$?
case $answer in
    *' HTTP 202') ;;
    *' HTTP '???)
        printf 'WARNING: the deployment was not reported to Hivel: HTTP %s: %.300s\n' \
            "${answer##* HTTP }" "${answer% HTTP *}" ;;
    *) printf 'WARNING: the deployment was not reported to Hivel: %.300s\n' \
        "${answer:-curl was stopped, exit code $code}" ;;
esac
