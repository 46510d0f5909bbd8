import { Tabs } from '@base-ui/react/tabs'
import { Link, useNavigate, useParams, useSearch } from '@tanstack/react-router'
import {
  deleteJob,
  listJobEvents,
  resumeJob,
  retryJob,
  saveJob,
  stopJob,
  viewJob,
} from '../../../src/api/control/job-endpoints.ts'
import type { JobView } from '../../../src/api/control/jobs.ts'
import { listCheckpoints } from '../../../src/api/control/models.ts'
import { Confirm } from '../parts/confirm.tsx'
import { Facts } from '../parts/facts.tsx'
import { JobLog } from '../parts/job-log.tsx'
import { JobMetrics } from '../parts/job-metrics.tsx'
import { Problem } from '../parts/problem.tsx'
import { State } from '../parts/state.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { Waiting } from '../parts/waiting.tsx'
import { useProject } from '../project.ts'
import { often, seldom, service, useAnswer, useDeed } from '../service.ts'
import { bytesText, durationText, numberText, timeText } from '../text.ts'
import { JobProgress } from './jobs.tsx'

const atRest: readonly JobView['state'][] = ['success', 'failed', 'stopped']

export function JobPage() {
  const project = useProject()
  const job = useParams({ strict: false, select: ({ job }) => job! })
  const tab = useSearch({ strict: false, select: (search) => (search as { tab?: string }).tab })
  const { data, error } = useAnswer(viewJob, { params: { project, job } }, { every: often })
  if (data === undefined) return <Waiting error={error} />
  const isLive = !atRest.includes(data.state)
  return (
    <>
      <div className="heading">
        <h1>{data.name}</h1>
        <State name={data.state} />
        <span className="space" />
        <Deeds project={project} job={data} />
      </div>
      <Problem error={error} />
      <p>{data.message}</p>
      <JobProgress job={data} />
      <JobFacts job={data} />
      <Tabs.Root defaultValue={tab ?? 'curves'}>
        <Tabs.List className="tabs">
          <Tabs.Tab value="curves">Curves</Tabs.Tab>
          <Tabs.Tab value="checkpoints">Checkpoints</Tabs.Tab>
          <Tabs.Tab value="log">Log</Tabs.Tab>
          <Tabs.Tab value="events">What happened</Tabs.Tab>
          <Tabs.Tab value="file">Job file</Tabs.Tab>
        </Tabs.List>
        <Tabs.Panel value="curves">
          <JobMetrics project={project} job={data.id} isLive={isLive} />
        </Tabs.Panel>
        <Tabs.Panel value="checkpoints">
          <Checkpoints project={project} job={data} />
        </Tabs.Panel>
        <Tabs.Panel value="log">
          <JobLog project={project} job={data.id} />
        </Tabs.Panel>
        <Tabs.Panel value="events">
          <Events project={project} job={data.id} />
        </Tabs.Panel>
        <Tabs.Panel value="file">
          <pre>{JSON.stringify(data.file, null, 2)}</pre>
        </Tabs.Panel>
      </Tabs.Root>
    </>
  )
}

function Deeds({ project, job }: { project: string; job: JobView }) {
  const navigate = useNavigate()
  const params = { project, job: job.id }
  const changes = ['jobs.']
  const stop = useDeed(() => service.call(stopJob, { params }), changes)
  const save = useDeed(() => service.call(saveJob, { params }), changes)
  const resume = useDeed(() => service.call(resumeJob, { params }), changes)
  const retry = useDeed(() => service.call(retryJob, { params }), changes)
  const remove = useDeed(
    () => service.call(deleteJob, { params }),
    ['jobs.list'],
    () => void navigate({ to: '/projects/$project/jobs', params: { project } }),
  )
  const problem = [stop, save, resume, retry, remove].find(({ error }) => error)?.error
  const isBusy = [stop, save, resume, retry, remove].some(({ isPending }) => isPending)
  const button = (verb: string, deed: { mutate(input: undefined): void }) => (
    <button type="button" disabled={isBusy} onClick={() => deed.mutate(undefined)}>
      {verb}
    </button>
  )
  return (
    <>
      <Problem error={problem} />
      {job.state === 'running' && button(job.saving ? 'Saving ...' : 'Save now', save)}
      {!atRest.includes(job.state) && job.state !== 'stopping' && button('Stop', stop)}
      {job.state === 'stopped' && button('Resume', resume)}
      {job.state === 'failed' && button('Retry', retry)}
      {atRest.includes(job.state) && (
        <Confirm
          verb="Delete"
          title={`Delete the job ${job.name}?`}
          isBusy={isBusy}
          onConfirm={() => remove.mutate(undefined)}
        >
          Its log and curves go, and its files a day later. Checkpoints that were collected from it stay.
        </Confirm>
      )}
    </>
  )
}

function JobFacts({ job }: { job: JobView }) {
  const { step_ms, total_steps, steps_done, state, started_at, ended_at } = job
  const left =
    state === 'running' && step_ms !== null && total_steps !== null
      ? durationText((total_steps - steps_done) * step_ms)
      : null
  return (
    <Facts
      of={{
        Left: left,
        Started: started_at !== null && <Ago at={started_at} />,
        Took: started_at !== null && ended_at !== null && durationText(ended_at - started_at),
        'A step': step_ms !== null && `${Math.round(step_ms)} ms`,
        Cluster: job.cluster,
        Devices: `${job.devices} ${job.device}${job.processes > 1 ? ` for each of ${job.processes}` : ''}`,
        Attempt: job.attempt > 1 && job.attempt,
        'Newest checkpoint': job.checkpoint_step > 0 && `step ${job.checkpoint_step}`,
      }}
    />
  )
}

function Checkpoints({ project, job }: { project: string; job: JobView }) {
  const query = { job: job.id, limit: 100 }
  const { data, error } = useAnswer(listCheckpoints, { params: { project }, query }, { every: seldom })
  if (error) return <Problem error={error} />
  return (
    <Table
      rows={data?.items}
      keyOf={({ id }) => id}
      empty="None was collected yet."
      columns={{
        Step: ({ step }) => step,
        Name: ({ name }) => name,
        Loss: ({ metrics: { loss } }) => loss !== undefined && numberText(loss),
        Size: ({ bytes }) => bytesText(bytes),
        Made: ({ created_at }) => <Ago at={created_at} />,
        '': ({ id }) => (
          <span className="row">
            <Link to="/projects/$project/deployments" params={{ project }} search={{ model: id }}>
              Deploy
            </Link>
            <Link to="/projects/$project/models" params={{ project }} search={{ checkpoint: id }}>
              Promote
            </Link>
          </span>
        ),
      }}
    />
  )
}

function Events({ project, job }: { project: string; job: string }) {
  const query = { limit: 200 }
  const { data, error } = useAnswer(listJobEvents, { params: { project, job }, query }, { every: seldom })
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
