// For a Jenkins where you cannot install the shared library: paste this whole file once, at the end of the Jenkinsfile,
// and delete the line `@Library('hivel') _`. The calls of hivelDeployment stay the same. In a declarative pipeline a call
// must be inside `script { }`. The word END must stay at the beginning of its line.
//
// Needs: curl on the node, or PowerShell on Windows; the variable HIVEL_AGENT_URL or the argument `url`; a "Secret text"
// credential hivel-agent-token with the token of the intake (Credentials Binding plugin).

/** Reports the whole build, or one stage if {@code stage: 'name'} is given. */
def hivelDeployment(Map arguments = [:]) {
    hivelReport(arguments)
}

/** Runs {@code deploy} and reports it as a stage, with the times and the result of the block. Returns its value. */
def hivelDeployment(Map arguments = [:], Closure deploy) {
    def began = System.currentTimeMillis()
    def before = currentBuild.currentResult
    def status = 'FAILURE'
    def value = null
    try {
        value = deploy()
        // Jenkins shows only the worst result of the build so far. A result from before the block is not the block's.
        status = currentBuild.currentResult == before ? 'SUCCESS' : currentBuild.currentResult
    } catch (org.jenkinsci.plugins.workflow.steps.FlowInterruptedException e) {
        status = 'ABORTED'
        throw e
    } finally {
        hivelReport([stage: env.STAGE_NAME ?: 'deployment', status: status, start_time: began] + arguments)
    }
    return value
}

/** An error here is one line in the log and never changes the result of the build. */
def hivelReport(Map arguments) {
    def asked = System.currentTimeMillis()
    try {
        def url = arguments.get('url') ?: env.HIVEL_AGENT_URL
        if (!url) {
            hivelWarning('set HIVEL_AGENT_URL in Jenkins, or pass `url`')
            return
        }
        def id = arguments.get('credentialsId') ?: 'hivel-agent-token'
        def json = hivelJson(hivelFields(asked) + [given: hivelGiven(arguments)] + arguments)
        timeout(time: 15, unit: 'SECONDS') {
            withCredentials([string(credentialsId: id, variable: 'HIVEL_TOKEN')]) {
                withEnv(["HIVEL_AGENT_URL=${url}", "HIVEL_REPORT=${json}"]) { hivelSend() }
            }
        }
    } catch (org.jenkinsci.plugins.workflow.steps.FlowInterruptedException e) {
        if (System.currentTimeMillis() - asked < 15000) { throw e }  // the build itself is stopped
        hivelWarning('it took longer than 15 s')
    } catch (Throwable e) {  // "No such DSL method" is an Error
        hivelWarning(e.toString())
    }
}

def hivelWarning(String reason) {
    echo "WARNING: the deployment was not reported to Hivel: ${reason}"
}

/** What Jenkins says about this build, without GIT_URL, GIT_BRANCH, GIT_COMMIT: a shared library can set those. */
def hivelFields(long now) {
    return [
        provider: 'jenkins', job: env.JOB_NAME, build_number: env.BUILD_NUMBER, build_url: env.BUILD_URL,
        status: currentBuild.currentResult, start_time: currentBuild.timeInMillis, end_time: now,
        pr_number: env.CHANGE_ID, branch: env.CHANGE_BRANCH,
    ]
}

/** Which source fields the call itself names. */
def hivelGiven(Map arguments) {
    def named = [:]
    for (name in ['repo_url', 'branch', 'commit_hash']) {
        if (arguments.get(name)) { named.put(name, true) }
    }
    return named.keySet()
}

/** ASCII without $ and ', passed in an environment variable only: no value can break the JSON or run a command. */
def hivelJson(Map fields) {
    def report = [:]
    for (name in fields.keySet()) {
        if (fields.get(name)) { report.put(name, fields.get(name)) }
    }
    report.remove('url')
    report.remove('credentialsId')
    return groovy.json.JsonOutput.toJson(report).replace('$', '\\u0024').replace("'", '\\u0027')
}

/** The token reaches curl through a here-document: it is not in the process list and not in the log. */
def hivelSend() {
    if (isUnix()) {
        sh label: 'Report to Hivel', script: '''
            set +x
            answer=$(curl --silent --show-error --connect-timeout 2 --max-time 5 --config - \
                --header 'Content-Type: application/json' --data-binary "$HIVEL_REPORT" \
                --write-out ' HTTP %{http_code}' --url "$HIVEL_AGENT_URL/v1/events" 2>&1 <<END
            header = "Authorization: Bearer $HIVEL_TOKEN"
END
            ) || code=$?
            case $answer in
                *' HTTP 202') ;;
                *' HTTP '???)
                    printf 'WARNING: the deployment was not reported to Hivel: HTTP %s: %.300s\\n' \
                        "${answer##* HTTP }" "${answer% HTTP *}" ;;
                *) printf 'WARNING: the deployment was not reported to Hivel: %.300s\\n' \
                    "${answer:-curl was stopped, exit code $code}" ;;
            esac
        '''
    } else {
        powershell label: 'Report to Hivel', script: '''
            $ProgressPreference = 'SilentlyContinue'
            try {
                $point = [Net.ServicePointManager]
                $point::SecurityProtocol = $point::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
                $report = @{
                    Uri         = "$env:HIVEL_AGENT_URL/v1/events"
                    Method      = 'Post'
                    Headers     = @{ Authorization = "Bearer $env:HIVEL_TOKEN" }
                    ContentType = 'application/json'
                    Body        = $env:HIVEL_REPORT
                    TimeoutSec  = 5
                    ErrorAction = 'Stop'
                }
                Invoke-RestMethod @report | Out-Null
            } catch {
                $reason = "$($_.Exception.Message) $($_.ErrorDetails.Message)"
                Write-Output "WARNING: the deployment was not reported to Hivel: $reason"
            }
            exit 0
        '''
    }
}
