import { Link, useNavigate } from '@tanstack/react-router'
import { linkDataset, listDatasets } from '../../../src/api/control/datasets.ts'
import { LinkForm } from '../parts/link-form.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { UploadPlace } from '../parts/upload.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer } from '../service.ts'

const datasetsShown = 200

/** All data of a project, and the places where more comes in. */
export function Datasets() {
  const project = useProject()
  const navigate = useNavigate()
  const query = { limit: datasetsShown }
  const { data, error } = useAnswer(listDatasets, { params: { project }, query }, { every: seldom })
  const show = (dataset: string) =>
    void navigate({ to: '/projects/$project/data/$dataset', params: { project, dataset } })
  return (
    <>
      <h1>Data</h1>
      <UploadPlace project={project} known={data?.items.map(({ name }) => name) ?? []} onDone={show} />
      <details>
        <summary>Link a bucket or a folder instead: nothing is copied</summary>
        <LinkForm
          project={project}
          what="dataset"
          changes="datasets."
          link={(dataset, link) =>
            service.call(linkDataset, { params: { project, dataset }, body: { link } })
          }
          onDone={show}
        />
      </details>
      <h2>Datasets</h2>
      <Problem error={error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="No data yet. Drop a file above; jobs then name it dataset:NAME."
        columns={{
          Dataset: ({ name }) => (
            <Link to="/projects/$project/data/$dataset" params={{ project, dataset: name }}>
              {name}
            </Link>
          ),
          'Newest version': ({ latest }) => latest,
          Changed: ({ updated_at }) => <Ago at={updated_at} />,
          '': ({ description }) => <span className="quiet">{description}</span>,
        }}
      />
      {data?.next && (
        <p className="quiet">Only {datasetsShown} are shown; ropeway dataset list has them all.</p>
      )}
    </>
  )
}
