"""The 15 points of Kaggle's Facial Keypoints Detection, in its csv's order; left and right are the subject's own."""

from livemarks.types import Scheme

SCHEME = Scheme(
    name="kaggle15",
    points=(
        "left_eye_center",
        "right_eye_center",
        "left_eye_inner_corner",
        "left_eye_outer_corner",
        "right_eye_inner_corner",
        "right_eye_outer_corner",
        "left_eyebrow_inner_end",
        "left_eyebrow_outer_end",
        "right_eyebrow_inner_end",
        "right_eyebrow_outer_end",
        "nose_tip",
        "mouth_left_corner",
        "mouth_right_corner",
        "mouth_center_top_lip",
        "mouth_center_bottom_lip",
    ),
    mirror=(1, 0, 4, 5, 2, 3, 8, 9, 6, 7, 10, 12, 11, 13, 14),
    edges=((7, 6), (8, 9), (3, 0), (0, 2), (4, 1), (1, 5), (12, 13), (13, 11), (11, 14), (14, 12)),
    norm=((5,), (3,)),  # outer eye corners, as the other schemes; Kaggle itself scores RMSE in px
    roll=((1, 4, 5), (0, 2, 3)),
    # No jaw: medians over the 1673 labelled faces of Helen's and LFPW's training sets, whose 15 points were derived
    # from the 68 (see train/samples.py). The bottom varies most, by 0.08 of the height, with the open mouth.
    box_pad=(0.093, 0.054, 0.099, 0.328),
    light=(11, 12, 13, 14),
)
