"""Problems in MiniMalloc's format: every column, and what is said of files of another format."""

import pytest

from polystage.allocation import AllocationError, Buffer, allocate
from polystage.allocation.minimalloc import read_problem


def read(tmp_path, text, name="x.12.csv"):
    path = tmp_path / name
    path.write_text(text)
    return read_problem(path)


def test_the_example_of_its_readme(tmp_path):
    problem = read(
        tmp_path,
        "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\nb4,9,21,4\nb5,0,21,4\n",
    )
    assert problem.memories[0].capacity == 12
    assert allocate(problem).peaks == {"": 12}


def test_all_columns(tmp_path):
    problem = read(
        tmp_path,
        "buffer,start,end,size,alignment,gaps,hint,offset\nx,0,9,64,32,2-3 5-7,,\ny,0,0,1,,,4,8\n",
        "x.csv",
    )
    assert problem.memories[0].capacity is None
    assert problem.buffers == [
        Buffer("x", 0, 10, 64, gaps=((2, 4), (5, 8)), alignment=32),
        Buffer("y", 0, 1, 1, hint=4, address=8),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,lower,upper\nx,0,1\n", "x.12.csv:1: column 'size' is missing"),
        ("id,lower,size\nx,0,1\n", "x.12.csv:1: column 'upper' is missing"),
        ("", "x.12.csv:1: column 'id' is missing"),
        ("id,id,lower,upper,size\n", "x.12.csv:1: a column is there twice"),
        ("id,lower,upper,size,colour\n", "x.12.csv:1: column 'colour' is not known"),
        (
            "id,lower,upper,size\nx,0,1\n",
            "x.12.csv:2: 3 fields where the first line names 4 columns",
        ),
        (
            "id,lower,upper,size\nx,0,1,8\ny,0,one,8\n",
            "x.12.csv:3: 'one' in column 'upper' is not an integer",
        ),
        ("id,lower,upper,size\nx,4,1,8\n", "x.12.csv:2: buffer 'x' ends before it starts"),
        ("id,lower,upper,size,gaps\nx,0,9,8,3\n", "x.12.csv:2: gap '3' is not a range"),
        (
            "id,lower,upper,size,gaps\nx,0,9,8,3-5@0:4\n",
            "x.12.csv:2: gap '3-5@0:4' keeps a part of the buffer, which is not supported",
        ),
    ],
)
def test_other_formats_are_refused(tmp_path, text, message):
    with pytest.raises(AllocationError) as error:
        read(tmp_path, text)
    assert str(error.value).split("\nhelp")[0] == message
