// Reports a deployment to hivel-agent. How to use it: hivelDeployment.txt, beside this file.
//
// It runs in the sandbox, without any approval: apart from the steps isUnix, sh, powershell, echo, timeout, withEnv and
// withCredentials it calls only what is on the default whitelist of the Script Security plugin:
//   JsonOutput.toJson(Map), String.replace, System.currentTimeMillis, Object.toString,
//   and get, put, remove, keySet and plus of maps;
// env, currentBuild.currentResult and currentBuild.timeInMillis are open to every pipeline.
// Not on it are FlowInterruptedException.getResult and getCauses: a block that was interrupted counts as ABORTED.

import groovy.json.JsonOutput
import org.jenkinsci.plugins.workflow.steps.FlowInterruptedException

/** Reports the whole build; with {@code stage: 'name'} that stage alone. */
def call(Map arguments = [:]) {
    report(arguments)
}

/** Runs {@code deploy} and reports it as a stage, with the times and the result of the block. Gives back its value. */
def call(Map arguments = [:], Closure deploy) {
    def began = System.currentTimeMillis()
    def before = currentBuild.currentResult
    def status = 'FAILURE'
    def value = null
    try {
        value = deploy()
        // Jenkins tells only the worst result of the build so far: what was so before is not this deployment's.
        status = currentBuild.currentResult == before ? 'SUCCESS' : currentBuild.currentResult
    } catch (FlowInterruptedException e) {
        status = 'ABORTED'
        throw e
    } finally {
        report([stage: env.STAGE_NAME ?: 'deployment', status: status, start_time: began] + arguments)
    }
    return value
}

/** Whatever goes wrong here is a line in the log; the build goes on as if nothing had been. */
def report(Map arguments) {
    def asked = System.currentTimeMillis()
    try {
        def url = arguments.get('url') ?: env.HIVEL_AGENT_URL
        if (!url) {
            warn('set HIVEL_AGENT_URL in Jenkins, or give `url`')
            return
        }
        def id = arguments.get('credentialsId') ?: 'hivel-agent-token'
        def json = asJson(fields(asked) + [given: given(arguments)] + arguments)
        timeout(time: 15, unit: 'SECONDS') {
            withCredentials([string(credentialsId: id, variable: 'HIVEL_TOKEN')]) {
                withEnv(["HIVEL_AGENT_URL=${url}", "HIVEL_REPORT=${json}"]) { send() }
            }
        }
    } catch (FlowInterruptedException e) {
        if (System.currentTimeMillis() - asked < 15000) { throw e }  // the build itself is stopped
        warn('it took longer than 15 s')
    } catch (Throwable e) {  // "No such DSL method" is an Error
        warn(e.toString())
    }
}

def warn(String reason) {
    echo "WARNING: the deployment was not reported to Hivel: ${reason}"
}

/** What Jenkins tells of this build; not GIT_URL and the like, which may be those of a shared library. */
def fields(long now) {
    return [
        provider: 'jenkins', job: env.JOB_NAME, build_number: env.BUILD_NUMBER, build_url: env.BUILD_URL,
        status: currentBuild.currentResult, start_time: currentBuild.timeInMillis, end_time: now,
        pr_number: env.CHANGE_ID, branch: env.CHANGE_BRANCH,
    ]
}

/** Which of the fields of the source somebody wrote down. */
def given(Map arguments) {
    def written = [:]
    for (name in ['repo_url', 'branch', 'commit_hash']) {
        if (arguments.get(name)) { written.put(name, true) }
    }
    return written.keySet()
}

/** ASCII without $ and ', and only ever in an environment variable: no value can break the JSON or run anything. */
def asJson(Map fields) {
    def told = [:]
    for (name in fields.keySet()) {
        if (fields.get(name)) { told.put(name, fields.get(name)) }
    }
    told.remove('url')
    told.remove('credentialsId')
    return JsonOutput.toJson(told).replace('$', '\\u0024').replace("'", '\\u0027')
}

/** The token goes to curl through a here-document: neither the list of processes nor the log shows it. */
def send() {
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
