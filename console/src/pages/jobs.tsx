import { Link } from '@tanstack/react-router'
import { listJobs } from '../../../src/api/control/job-endpoints.ts'
import type { JobView } from '../../../src/api/control/jobs.ts'
import { Problem } from '../parts/problem.tsx'
import { Progress } from '../parts/progress.tsx'
import { State } from '../parts/state.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { useProject } from '../project.ts'
import { seldom, useAnswer } from '../service.ts'
import { numberText } from '../text.ts'

export function Jobs() {
  const project = useProject()
  return (
    <>
      <div className="heading">
        <h1>Jobs</h1>
        <span className="space" />
        <Link className="button" to="/projects/$project/templates" params={{ project }}>
          Templates
        </Link>
        <Link className="button main" to="/projects/$project/new-job" params={{ project }}>
          New job
        </Link>
      </div>
      <JobTable project={project} limit={200} />
    </>
  )
}

/** The newest `limit` jobs. */
export function JobTable({ project, limit }: { project: string; limit: number }) {
  const { data, error } = useAnswer(listJobs, { params: { project }, query: { limit } }, { every: seldom })
  if (error) return <Problem error={error} />
  return (
    <>
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty={
          <>
            No jobs yet. <code>ropeway train job.yml</code> makes one, and so does the button above.
          </>
        }
        columns={{
          Job: ({ id, name }) => (
            <Link to="/projects/$project/jobs/$job" params={{ project, job: id }}>
              {name}
            </Link>
          ),
          State: ({ state }) => <State name={state} />,
          Progress: (job) => <JobProgress job={job} />,
          Loss: ({ metrics: { loss } }) => (typeof loss === 'number' ? numberText(loss) : loss),
          Created: ({ created_at }) => <Ago at={created_at} />,
        }}
      />
      {data?.next && (
        <p className="quiet">Only the newest {limit} are shown; ropeway job list has them all.</p>
      )}
    </>
  )
}

export function JobProgress({ job: { steps_done, total_steps } }: { job: JobView }) {
  if (total_steps === null) return steps_done > 0 ? `step ${steps_done}` : ''
  return (
    <>
      <Progress done={steps_done} total={total_steps} /> {steps_done} of {total_steps}
    </>
  )
}
