import { Tabs } from '@base-ui/react/tabs'
import { useNavigate, useParams } from '@tanstack/react-router'
import {
  type DeploymentUpdate,
  type DeploymentView,
  deleteDeployment,
  deploymentEvents,
  deploymentMetrics,
  promoteDeployment,
  rollbackDeployment,
  showDeployment,
  updateDeployment,
} from '../../../src/api/control/deployments.ts'
import { Confirm } from '../parts/confirm.tsx'
import { Facts } from '../parts/facts.tsx'
import { Playground } from '../parts/playground.tsx'
import { Problem } from '../parts/problem.tsx'
import { State } from '../parts/state.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { Waiting } from '../parts/waiting.tsx'
import { useProject } from '../project.ts'
import { often, seldom, service, useAnswer, useDeed } from '../service.ts'
import { timeText } from '../text.ts'
import { servesText } from './deployments.tsx'

export function DeploymentPage() {
  const project = useProject()
  const deployment = useParams({ strict: false, select: ({ deployment }) => deployment! })
  const params = { project, deployment }
  const { data, error } = useAnswer(showDeployment, { params }, { every: often })
  if (data === undefined) return <Waiting error={error} />
  return (
    <>
      <div className="heading">
        <h1>{data.name}</h1>
        <State name={data.state} />
        <span className="space" />
        <Deeds project={project} deployment={data} />
      </div>
      <Problem error={error} />
      <p>{data.message}</p>
      <Facts
        of={{
          Serves: servesText(data),
          Address: data.url !== null && <code>{data.url}</code>,
          'Who may ask': data.public ? 'everybody' : 'keys of the project',
          Replicas: `${data.scaling.min} to ${data.scaling.max}`,
        }}
      />
      <Tabs.Root defaultValue="try">
        <Tabs.List className="tabs">
          <Tabs.Tab value="try">Try it</Tabs.Tab>
          <Tabs.Tab value="versions">Versions</Tabs.Tab>
          <Tabs.Tab value="replicas">Replicas</Tabs.Tab>
          <Tabs.Tab value="events">What happened</Tabs.Tab>
          <Tabs.Tab value="code">In a program</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="try">
          <Playground project={project} deployment={data.name} needsKey={!data.public} />
        </Tabs.Panel>
        <Tabs.Panel value="versions">
          <Versions project={project} deployment={data} />
        </Tabs.Panel>
        <Tabs.Panel value="replicas">
          <Replicas project={project} deployment={data} />
        </Tabs.Panel>
        <Tabs.Panel value="events">
          <Events project={project} deployment={data.name} />
        </Tabs.Panel>
        <Tabs.Panel value="code">
          <Code deployment={data} />
        </Tabs.Panel>
      </Tabs.Root>
    </>
  )
}

interface OfDeployment {
  readonly project: string
  readonly deployment: DeploymentView
}

function Deeds({ project, deployment }: OfDeployment) {
  const navigate = useNavigate()
  const params = { project, deployment: deployment.name }
  const change = useDeed(
    (body: Partial<DeploymentUpdate>) => service.call(updateDeployment, { params, body }),
    ['deployments.'],
  )
  const remove = useDeed(
    () => service.call(deleteDeployment, { params }),
    ['deployments.list'],
    () => void navigate({ to: '/projects/$project/deployments', params: { project } }),
  )
  const opening = deployment.public ? 'Ask for keys' : 'Open to everybody'
  return (
    <>
      <Problem error={change.error ?? remove.error} />
      <button
        type="button"
        disabled={change.isPending}
        onClick={() => change.mutate({ public: !deployment.public })}
      >
        {opening}
      </button>
      <Confirm
        verb="Delete"
        title={`Delete the deployment ${deployment.name}?`}
        isBusy={remove.isPending}
        onConfirm={() => remove.mutate(undefined)}
      >
        Its replicas finish what they do, then nothing answers under this name. Models stay.
      </Confirm>
    </>
  )
}

function Versions({ project, deployment }: OfDeployment) {
  const params = { project, deployment: deployment.name }
  const { serving, candidate, versions } = deployment
  const back = useDeed(
    (version: string) => service.call(rollbackDeployment, { params, body: { version } }),
    ['deployments.'],
  )
  const promote = useDeed(() => service.call(promoteDeployment, { params }), ['deployments.'])
  return (
    <>
      <Problem error={back.error ?? promote.error} />
      <Table
        rows={versions.toReversed()}
        keyOf={({ id }) => id}
        empty="None."
        columns={{
          Version: ({ id }) => id,
          Model: ({ model, made_of }) => made_of[model] ?? model,
          Adapters: ({ adapters }) => Object.keys(adapters).join(', '),
          Made: ({ at }) => <Ago at={at} />,
          Traffic: ({ id }) => trafficOf(deployment, id),
          '': ({ id }) =>
            id === candidate?.version ? (
              <button type="button" disabled={promote.isPending} onClick={() => promote.mutate(undefined)}>
                Give it everything
              </button>
            ) : (
              id !== serving && (
                <button type="button" disabled={back.isPending} onClick={() => back.mutate(id)}>
                  Back to this one
                </button>
              )
            ),
        }}
      />
    </>
  )
}

function trafficOf({ serving, candidate }: DeploymentView, version: string): string {
  const percent = (share: number) => `${Math.round(share * 100)} %`
  if (version === candidate?.version)
    return candidate.shadow > 0 ? `copies of ${percent(candidate.shadow)}` : percent(candidate.share)
  return version === serving ? percent(1 - (candidate?.share ?? 0)) : ''
}

function Replicas({ project, deployment }: OfDeployment) {
  const params = { project, deployment: deployment.name }
  const { data, error } = useAnswer(deploymentMetrics, { params }, { every: seldom })
  const ms = (value: number | undefined) => value !== undefined && `${Math.round(value)} ms`
  return (
    <>
      <Table
        rows={deployment.replicas}
        keyOf={({ id }) => id}
        empty="None runs."
        columns={{
          Replica: ({ id }) => id,
          Version: ({ version }) => version,
          State: ({ phase }) => <State name={phase} />,
          Since: ({ since }) => <Ago at={since} />,
          Running: ({ running }) => running ?? '',
          Waiting: ({ waiting }) => waiting ?? '',
          'Cache in use': ({ id }) => {
            const used = data?.replicas.find(({ replica }) => replica === id)?.gauges?.cacheUsed
            return used !== undefined && `${Math.round(used * 100)} %`
          },
        }}
      />
      <h2>The last five minutes</h2>
      <Problem error={error} />
      {data && (
        <Facts
          of={{
            Requests: data.versions.reduce((sum, { requests }) => sum + requests, 0),
            Failures: data.versions.reduce((sum, { failures }) => sum + failures, 0),
            'First token, median': ms(data.firstTokenMs?.p50),
            'First token, p99': ms(data.firstTokenMs?.p99),
            'A token, median': ms(data.perTokenMs?.p50),
            'Waited, p99': ms(data.queueMs?.p99),
          }}
        />
      )}
    </>
  )
}

function Events({ project, deployment }: { project: string; deployment: string }) {
  const params = { project, deployment }
  const { data, error } = useAnswer(deploymentEvents, { params, query: { limit: 100 } }, { every: seldom })
  if (error) return <Problem error={error} />
  return (
    <Table
      rows={data?.items}
      keyOf={({ id }) => id}
      empty="Nothing yet."
      columns={{ When: ({ at }) => timeText(at), What: ({ kind }) => kind, Why: ({ message }) => message }}
    />
  )
}

function Code({ deployment: { name, url, public: isPublic } }: { deployment: DeploymentView }) {
  const base = url ?? `${location.origin}/v1`
  const key = isPublic ? '' : ` -H 'authorization: Bearer KEY'`
  return (
    <>
      <p>Any client of OpenAI's API: this base URL, and the deployment's name as the model.</p>
      <pre>{`curl ${base}/completions -H 'content-type: application/json'${key} \\
  -d '{"model": "${name}", "prompt": "Once upon a time", "max_tokens": 80}'`}</pre>
      <pre>{`from openai import OpenAI
client = OpenAI(base_url="${base}", api_key="${isPublic ? 'none' : 'KEY'}")
print(client.completions.create(model="${name}", prompt="Once upon a time", max_tokens=80).choices[0].text)`}</pre>
      {!isPublic && (
        <p>
          <code>ropeway key create me --scope deployment:use</code> prints a KEY.
        </p>
      )}
    </>
  )
}
