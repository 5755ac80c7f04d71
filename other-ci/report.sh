# Reports the deployment of this job to the intake of a hivel-agent. Needs a shell, awk, and curl 7.71 or newer.
# All values come from the environment: no name of a branch can run a command. The result of the job never changes.
(
set +eu
report=$(LC_ALL=C awk '
function set(name) { return ENVIRON[name] }
function either(one, other) { return one != "" ? one : other }
function json(text,    at, byte, out) {
    for (at = 1; at <= length(text); at++) {
        byte = substr(text, at, 1)
        out = out (byte in escaped ? escaped[byte] : byte)
    }
    return "\"" out "\""
}
function field(name, text) { if (text != "") printf ",\"%s\":%s", name, json(text) }
function quoted(text,    at, byte, out) {
    for (at = 1; at <= length(text); at++) {
        byte = substr(text, at, 1)
        out = out (byte ~ /[A-Za-z0-9._~-]/ ? byte : hex[byte])
    }
    return out
}
function last(path,    parts, count) { count = split(path, parts, "/"); return count ? parts[count] : "" }
function retry(number) { return number == "" || number == "1" ? "" : "." number }
function ref_name(ref) {
    if (ref ~ /^refs\/(heads|tags)\//) { sub(/^refs\/(heads|tags)\//, "", ref); return ref }
    return ref ~ /^refs\// ? "" : ref
}
function ref_number(ref,    parts) { return ref ~ /^refs\/pull\/[0-9]+\// ? (split(ref, parts, "/") ? parts[3] : "") : "" }
function within(name) { return name == "" || name == "__default" ? "" : "/" name }
function github(    url) {
    url = set("GITHUB_SERVER_URL") "/" set("GITHUB_REPOSITORY")
    run = set("GITHUB_REPOSITORY") "#" set("GITHUB_RUN_ID") "/" set("GITHUB_JOB") retry(set("GITHUB_RUN_ATTEMPT"))
    job = set("GITHUB_JOB"); number = set("GITHUB_RUN_NUMBER"); repository = url; commit = set("GITHUB_SHA")
    branch = either(set("GITHUB_HEAD_REF"), ref_name(either(set("GITHUB_REF"), set("GITHUB_REF_NAME"))))
    pull = ref_number(set("GITHUB_REF"))
    logs = url "/actions/runs/" set("GITHUB_RUN_ID")
    if (retry(set("GITHUB_RUN_ATTEMPT")) != "") logs = logs "/attempts/" set("GITHUB_RUN_ATTEMPT")
}
function gitlab() {
    run = set("CI_PROJECT_PATH") "#" set("CI_JOB_ID")
    job = set("CI_JOB_NAME"); number = set("CI_JOB_ID"); repository = set("CI_PROJECT_URL"); commit = set("CI_COMMIT_SHA")
    branch = either(set("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"), set("CI_EXTERNAL_PULL_REQUEST_SOURCE_BRANCH_NAME"))
    branch = either(branch, set("CI_COMMIT_REF_NAME"))
    pull = either(set("CI_MERGE_REQUEST_IID"), set("CI_EXTERNAL_PULL_REQUEST_IID"))
    status = set("CI_JOB_STATUS"); environment = set("CI_ENVIRONMENT_NAME"); start = set("CI_JOB_STARTED_AT")
    logs = set("CI_JOB_URL")
}
function circleci(    project) {
    project = set("CIRCLE_PROJECT_USERNAME") "/" set("CIRCLE_PROJECT_REPONAME")
    if (project ~ /^\// || project ~ /\/$/) project = set("CIRCLE_PROJECT_ID")
    run = project "#" set("CIRCLE_BUILD_NUM")
    job = set("CIRCLE_JOB"); number = set("CIRCLE_BUILD_NUM"); commit = set("CIRCLE_SHA1")
    repository = set("CIRCLE_REPOSITORY_URL"); logs = set("CIRCLE_BUILD_URL")
    branch = set("CIRCLE_BRANCH") ~ /^pull\// ? "" : set("CIRCLE_BRANCH")
    branch = either(branch, set("CIRCLE_TAG"))
    pull = either(set("CIRCLE_PR_NUMBER"), last(set("CIRCLE_PULL_REQUEST")))
    if (pull !~ /^[0-9]+$/) pull = ""
}
function azure(    collection, project, attempt) {
    collection = either(set("SYSTEM_COLLECTIONURI"), set("SYSTEM_TEAMFOUNDATIONCOLLECTIONURI"))
    sub(/\/+$/, "", collection)
    project = set("SYSTEM_TEAMPROJECT")
    attempt = retry(set("SYSTEM_STAGEATTEMPT"))
    if (retry(set("SYSTEM_JOBATTEMPT")) != "")
        attempt = "." either(set("SYSTEM_STAGEATTEMPT"), "1") "." set("SYSTEM_JOBATTEMPT")
    run = last(collection) "/" project "#" set("BUILD_BUILDID") within(set("SYSTEM_STAGENAME"))
    run = run within(set("SYSTEM_PHASENAME")) attempt
    job = set("BUILD_DEFINITIONNAME"); number = set("BUILD_BUILDNUMBER")
    repository = set("BUILD_REPOSITORY_URI"); commit = set("BUILD_SOURCEVERSION")
    branch = ref_name(either(set("SYSTEM_PULLREQUEST_SOURCEBRANCH"), set("BUILD_SOURCEBRANCH")))
    pull = either(set("SYSTEM_PULLREQUEST_PULLREQUESTNUMBER"), set("SYSTEM_PULLREQUEST_PULLREQUESTID"))
    pull = either(pull, ref_number(set("BUILD_SOURCEBRANCH")))
    status = set("AGENT_JOBSTATUS"); environment = set("ENVIRONMENT_NAME")
    logs = collection "/" quoted(project) "/_build/results?buildId=" quoted(set("BUILD_BUILDID"))
}
function argo() { job = set("ARGO_WORKFLOW_NAME"); run = job "#" set("ARGO_WORKFLOW_UID") }
BEGIN {
    for (code = 1; code < 256; code++) {
        hex[sprintf("%c", code)] = sprintf("%%%02X", code)
        if (code < 32) escaped[sprintf("%c", code)] = sprintf("\\u%04x", code)
    }
    escaped["\""] = "\\\""; escaped["\\"] = "\\\\"
    if (set("GITHUB_ACTIONS") == "true") { system_name = "github_actions"; github() }
    else if (set("GITLAB_CI") == "true") { system_name = "gitlab_ci"; gitlab() }
    else if (set("CIRCLECI") == "true") { system_name = "circleci"; circleci() }
    else if (set("TF_BUILD") == "True") { system_name = "azure_devops"; azure() }
    else if (set("ARGO_WORKFLOW_NAME") != "") { system_name = "argo_workflows"; argo() }
    else exit
    printf "{\"provider\":\"%s\"", system_name
    field("run", system_name ":" run); field("job", job); field("build_number", number)
    field("status", either(set("HIVEL_STATUS"), status))
    field("environment", either(set("HIVEL_ENVIRONMENT"), environment))
    field("repo_url", either(set("HIVEL_REPO_URL"), repository)); field("branch", either(set("HIVEL_BRANCH"), branch))
    field("commit_hash", either(set("HIVEL_COMMIT_HASH"), commit)); field("pr_number", pull)
    field("image", set("HIVEL_IMAGE")); field("logs_url", logs)
    field("start_time", either(set("HIVEL_START_TIME"), start))
    printf "}"
}')
token=$(printf '%s' "$HIVEL_TOKEN" | tr -d '\r\n')
url=${HIVEL_AGENT_SEND_URL%/}
url=${url%/v1/events}
case $url in
    https://* | http://localhost | http://localhost[:/]* | http://127.0.0.1 | http://127.0.0.1[:/]* | 'http://[::1]'*) answer= ;;
    *) answer='HIVEL_AGENT_SEND_URL is not an https address' ;;
esac
case $token in '' | '$('*) answer='HIVEL_TOKEN is not set' ;; esac
[ -n "$report" ] || answer='this CI system is not recognised'
if [ -z "$answer" ]; then
    # The token is passed on standard input: other users can see the arguments of a process.
    answer=$(printf 'header = "Authorization: Bearer %s"\n' "$token" | curl --silent --show-error --globoff --config - \
        --connect-timeout 3 --max-time 5 --retry 3 --retry-delay 2 --retry-max-time 15 --retry-all-errors \
        --header 'Content-Type: application/json' --data-binary "$report" \
        --write-out ' HTTP %{http_code}' --url "$url/v1/events" 2>&1)
fi
# On one line and without ##: a line of an answer must not be a command of the CI system.
answer=$(printf '%s' "$answer" | tr '\r\n' '  ' | sed 's/##*/#/g')
warning='WARNING: '
[ "$GITHUB_ACTIONS" != true ] || warning='::warning::'
[ "$TF_BUILD" != True ] || warning='##vso[task.logissue type=warning]'
case $answer in
    *' HTTP 202') printf 'The deployment is reported to Hivel: %.400s\n' "${answer% HTTP 202}" ;;
    *) printf '%sThe deployment was not reported to Hivel: %.400s\n' "$warning" "$answer" ;;
esac
) || :
